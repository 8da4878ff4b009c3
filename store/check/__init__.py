"""Verifies, repairs and marks the units of a store; knows no corpus."""
