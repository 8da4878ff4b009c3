"""Turns corpus files into pairs and chooses among them; knows no store."""
