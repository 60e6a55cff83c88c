"""Fusion of several maps, a paper each."""
