"""Runs every task on every dataset with every model, and skips what is up to date; knows nothing of reports."""
