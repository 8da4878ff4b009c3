"""Producers: corpus to teachers to feature store."""
