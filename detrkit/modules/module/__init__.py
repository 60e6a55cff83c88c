"""Blocks, a paper each."""
