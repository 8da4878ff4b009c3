"""Computes what a store contains, from counts to neighbours; never writes to a store."""
