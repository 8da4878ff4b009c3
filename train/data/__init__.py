"""Chooses the rows and targets of each batch and reads them; knows nothing of models or losses."""
