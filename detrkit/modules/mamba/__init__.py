"""State-space layers, a paper each."""
