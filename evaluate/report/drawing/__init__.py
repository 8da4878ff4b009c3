"""Drawings of the report: functions from numbers to SVG with a title, a description and the same as a table."""
