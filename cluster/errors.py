"""The errors a user is meant to read. `launch.py` prints them without a traceback and exits with code 2 or 1."""

from __future__ import annotations


class UserError(Exception):
    """One clear sentence: what is wrong with the input or the machine, and what to do about it."""


class TrainingStopped(Exception):
    """Training cannot go on: a crash loop or diverged losses; the message holds the first cause. Exit code 1."""
