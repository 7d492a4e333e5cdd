"""Atari: emulators, screens and scores."""
