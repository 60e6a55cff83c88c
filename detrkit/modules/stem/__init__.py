"""First layers, a paper each."""
