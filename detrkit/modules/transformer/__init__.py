"""Self-attention, a paper each."""
