"""Loads teachers and computes their features; knows nothing of ranges, receipts or Ray."""
