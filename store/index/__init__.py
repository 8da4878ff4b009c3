"""Makes and extends the pair table of a store from a corpus; knows nothing of features."""
