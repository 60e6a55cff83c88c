"""Parts of necks, a paper each."""
