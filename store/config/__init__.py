"""Reads ``pipelines.yaml`` and reports every problem by key and line; knows no section of it."""
