"""Losses between a student and its teacher, one per file."""
