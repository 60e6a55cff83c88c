"""Enlarging, a paper each."""
