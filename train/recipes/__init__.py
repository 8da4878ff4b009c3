"""Combines losses, projections and teacher statistics into what a run minimises; knows nothing of the training loop."""
