"""Environments: the contract that all are played by, Atari, gridworlds, any Gymnasium id."""
