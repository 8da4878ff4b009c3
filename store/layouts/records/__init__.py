"""Reads the records of tables and documents as they are; knows no pairs, but what may be added to a record."""
