"""Readers of evaluation datasets: each yields records, whatever the files are."""
