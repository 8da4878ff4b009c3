"""Files and objects in a folder or an object storage; knows nothing of stores, corpora or configuration."""
