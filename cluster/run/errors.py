"""The errors a user is meant to read. `launch.py` prints them without a traceback and exits with code 2 or 1."""

from __future__ import annotations


class UserError(Exception):
    """One clear sentence: what is wrong with the input or the machine, and what to do about it."""


class TrainingStopped(Exception):
    """Training cannot go on: a crash loop or diverged losses; the message holds the first cause. Exit code 1."""


class ActingStopped(TrainingStopped):
    """A worker or the evaluator fails again and again; what was learned is whole and can be saved."""


def counted(number: int, noun: str) -> str:
    """``1 worker``, ``2 workers``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def one_line(error: BaseException) -> str:
    """The root cause in one line: for a failed Ray call, the exception of the process itself."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    notes = [" ".join(note.split()) for note in getattr(cause, "__notes__", ())]
    # A plain Exception, as Ray raises them, says nothing by its type.
    kind = "" if type(cause) is Exception and lines else f"{type(cause).__name__}: "
    return "; ".join([f"{kind}{lines[0] if lines else 'no message'}", *notes])
