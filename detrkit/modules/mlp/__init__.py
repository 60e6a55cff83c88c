"""Feed-forward parts, a paper each."""
