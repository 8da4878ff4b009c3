"""Consumers: feature store to student."""
