"""Which processes a run takes, where they go and whether they fit."""
