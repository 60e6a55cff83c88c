"""Reducing, a paper each."""
