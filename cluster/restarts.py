"""When a process that failed is started again, and when it has failed too often.

Owned by the supervisor: the failures of each process within a window, and the restarts that are due.
"""

from __future__ import annotations

from collections import defaultdict, deque

from cluster.errors import TrainingStopped
from cluster.messages import ProcessId

BACKOFF_SECONDS = (1.0, 5.0, 15.0, 30.0)
"""Wait before the first, second, ... restart of a process in a row."""


class Restarts:
    """Restarts that wait for their time; ``max_restarts`` of one process within ``window_seconds`` are allowed."""

    def __init__(self, max_restarts: int, window_seconds: float) -> None:
        self._max_restarts, self._window_seconds = max_restarts, window_seconds
        self._failures: dict[ProcessId, deque[tuple[float, str]]] = defaultdict(deque)
        self._due: dict[ProcessId, float] = {}

    def __contains__(self, process: ProcessId) -> bool:
        return process in self._due

    def plan(self, process: ProcessId, cause: str, now: float, limit: int | None = None) -> float:
        """Note a failure; returns the seconds until the restart. ``limit`` may allow fewer restarts than usual.

        Raises TrainingStopped, naming the first cause, if the process has failed too often.
        """
        failures = self._failures[process]
        failures.append((now, cause))
        while failures and failures[0][0] < now - self._window_seconds:
            failures.popleft()
        allowed = self._max_restarts if limit is None else min(limit, self._max_restarts)
        if len(failures) > allowed:
            raise TrainingStopped(
                f"{process[0]} {process[1]} failed {len(failures)} times within {self._window_seconds / 60:g} minutes. "
                f"The first failure: {failures[0][1]}"
            )
        wait = BACKOFF_SECONDS[min(len(failures), len(BACKOFF_SECONDS)) - 1]
        self._due[process] = now + wait
        return wait

    def due(self, now: float) -> list[ProcessId]:
        """Processes whose time has come; each is handed out once."""
        ready = [process for process, when in self._due.items() if when <= now]
        for process in ready:
            del self._due[process]
        return ready
