"""When the next checkpoint is due, and what the user is told of those that could not be written.

A failure is told once, and so is its end; in between, attempts go on, sooner where the disk has got room.
"""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path

from cluster.run.errors import one_line

RETRY_SECONDS = 60.0
"""Until the next attempt, after a checkpoint could not be written."""
ROOM_SECONDS = 5.0
"""Between two looks at whether the disk has more room than at the last failure."""
ROOM_FACTOR, ROOM_BYTES = 1.1, 16 << 20
"""How much more is worth an attempt."""


class CheckpointSchedule:
    """Owned by the supervisor, which tells it how each attempt ended."""

    def __init__(self, folder: Path, period_seconds: float) -> None:
        """``folder``: of the run, on the disk whose room is watched."""
        self._folder, self._period = folder, period_seconds
        self._next = time.monotonic() + period_seconds
        self._look = 0.0
        self._free = 0
        self._known: tuple[type, object] | None = None
        self.failures = 0
        """In a row, up to now."""
        self._written = math.nan
        self.failure = ""
        """Why the last attempt failed, in one line; empty if it did not."""

    def due(self) -> bool:
        """Whether a checkpoint should be written now."""
        now = time.monotonic()
        if self.failures and now >= self._look:
            self._look = now + ROOM_SECONDS
            if self._room() > ROOM_FACTOR * self._free + ROOM_BYTES:
                return True
        return now >= self._next

    def failed(self, error: Exception) -> str:
        """Plan the next attempt; returns what to tell, or "" where the same was told before."""
        known = self.failures and _kind(error) == self._known
        self.failures += 1
        self.failure, self._known = one_line(error), _kind(error)
        self._next = time.monotonic() + min(self._period, RETRY_SECONDS)
        self._look, self._free = time.monotonic() + ROOM_SECONDS, self._room()
        if known:
            return ""
        return f"the checkpoint could not be written ({self.failure}): older ones stay, and it is tried again"

    def written(self) -> str:
        """Plan the next one; returns what to tell, or "" where all was well before."""
        failures, self.failures, self.failure = self.failures, 0, ""
        self._written = time.monotonic()
        self._next = time.monotonic() + self._period
        return f"a checkpoint was written again, after {failures} that could not be" if failures else ""

    def newest(self) -> str:
        """How old the newest checkpoint is, as a sentence."""
        if math.isnan(self._written):
            return "This session has written no checkpoint."
        age = time.monotonic() - self._written
        return f"The newest checkpoint is {f'{age:.0f} s' if age < 120 else f'{age / 60:.0f} minutes'} old."

    def _room(self) -> int:
        try:
            return shutil.disk_usage(self._folder).free
        except OSError:
            return 0


def _kind(error: Exception) -> tuple[type, object]:
    cause = getattr(error, "cause", None) or error
    return type(cause), getattr(cause, "errno", None)
