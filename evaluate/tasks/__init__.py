"""The six tasks as pure functions from arrays to results; knows neither files nor models."""
