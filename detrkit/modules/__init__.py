"""Layers from papers, one file each; any of them is one line of YAML away."""
