"""The parts of a checkpoint that learner and replay shards are writing."""

from __future__ import annotations

import time
from typing import Any

import ray

from cluster.on_ray.session import RaySession
from cluster.run.messages import ProcessId
from cluster.runtime.stopping import LAST_ANSWER_SECONDS, Grace
from replay.whole_files import Written

SAVE_TIMEOUT_SECONDS = 1800.0


class RemoteParts:
    """``calls``: who writes, by the answer that is awaited."""

    def __init__(self, calls: dict[Any, ProcessId], grace: Grace, session: RaySession) -> None:
        self._calls, self._grace, self._session = calls, grace, session
        self._begun = time.monotonic()

    def poll(self) -> dict[str, Written] | None:
        """See `Parts`. Raises too when a process takes too long, or the period of grace is over."""
        pending = list(self._calls)
        # Until all have ended, whatever one says: none may still write when the folder is removed or sealed.
        _, pending = ray.wait(pending, num_returns=len(pending), timeout=0)
        if pending:
            if (lost := self._session.lost()) is not None and lost[0] == "raylet":
                raise RuntimeError(f"Ray's own raylet {lost[1]}")
            left = self._grace.left(self._begun + SAVE_TIMEOUT_SECONDS - time.monotonic())
            if not left and time.monotonic() > self._begun + LAST_ANSWER_SECONDS:
                names = ", ".join(f"{kind} {index}" for kind, index in (self._calls[call] for call in pending))
                raise TimeoutError(f"{names} did not answer in time")
            return None
        written: dict[str, Written] = {}
        for part in ray.get(list(self._calls), timeout=LAST_ANSWER_SECONDS):
            written |= part
        return written
