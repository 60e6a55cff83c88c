"""Attention that weighs channels and places, a paper each."""
