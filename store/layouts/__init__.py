"""Layouts of corpora: readers that turn a file of any kind into pairs."""
