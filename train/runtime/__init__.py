"""Process ranks, interruption, checkpoints and the folder of a run; knows nothing of data or models."""
