"""Norms, a paper each."""
