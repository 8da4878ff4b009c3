"""Which rows and targets form a batch, and how they are read; knows nothing of models or losses."""
