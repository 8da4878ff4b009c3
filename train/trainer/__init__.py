"""Runs a training from the first step to the finished folder; knows nothing of the command line."""
