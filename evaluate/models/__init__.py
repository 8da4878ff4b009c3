"""Opens models by their address and computes embeddings; knows no task."""
