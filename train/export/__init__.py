"""Writes a student as an open_clip folder with a model card; knows nothing of training."""
