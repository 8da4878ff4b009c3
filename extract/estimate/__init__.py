"""Measures and forecasts the cost of an extraction; writes to no store."""
