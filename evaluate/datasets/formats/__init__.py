"""Reads the file formats of datasets into records; knows neither splits nor tasks."""
