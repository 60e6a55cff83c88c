"""Necks, a paper each."""
