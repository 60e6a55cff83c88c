"""Stages of convolutions, a paper each."""
