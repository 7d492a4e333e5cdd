"""The error a user is meant to read. `launch.py` prints it and exits with code 2, without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """One clear sentence: what is wrong with the input or the machine, and what to do about it."""
