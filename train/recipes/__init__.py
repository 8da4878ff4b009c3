"""Combines losses, projections and teacher statistics into objectives; knows nothing of the training loop."""
