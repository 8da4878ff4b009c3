"""Boards, comparisons and pages from result files; computes no embedding."""
