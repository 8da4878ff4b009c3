"""Models that tasks fit to embeddings; knows neither files nor results."""
