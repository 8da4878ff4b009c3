"""Metrics, intervals and tests on arrays; knows neither files, models nor tasks."""
