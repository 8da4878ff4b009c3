"""Writes the rows of a store to other file formats; never writes to a store."""
