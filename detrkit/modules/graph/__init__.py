"""Layers that graphs are made of, under the names that lists of layers use."""
