"""Encoders to tasks to metrics to report."""
