"""Dataset entries, their splits, checks and loading; knows no model."""
