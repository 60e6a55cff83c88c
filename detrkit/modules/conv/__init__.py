"""Convolutions, a paper each."""
