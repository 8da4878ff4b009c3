"""Builds, loads and averages the student; knows nothing of teachers or losses."""
