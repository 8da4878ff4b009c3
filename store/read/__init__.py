"""Reads committed pairs, features and images; never writes to a store."""
