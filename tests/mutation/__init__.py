"""Mutation testing of the code on which the claims of this repository rest (docs/testing.md)."""
