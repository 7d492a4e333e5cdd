"""When a process that failed is started again, and when it has failed too often.

Owned by the supervisor: the failures of each process within a window, and the restarts that are due.
"""

from __future__ import annotations

from collections import defaultdict, deque
from pathlib import Path

from actors.environments.door import EnvironmentFault, EnvironmentRaised
from cluster.run.errors import ActingStopped, TrainingStopped, one_line
from cluster.run.failures import failure_file, keep_failure
from cluster.run.messages import ProcessId
from learner.learner import TrainingDiverged

BACKOFF_SECONDS = (1.0, 5.0, 15.0, 30.0)
"""Wait before the first, second, ... restart of a process in a row."""


MAX_FAULTY_LIVES = 2
"""Restarts of a process whose environments hand out nothing but what cannot be used: a third life will hardly help."""


class Restarts:
    """Restarts that wait for their time; ``max_restarts`` of one process within ``window_seconds`` are allowed.

    Every failure is written down whole in ``run_dir`` (`failures.py`).
    """

    def __init__(self, max_restarts: int, window_seconds: float, run_dir: Path) -> None:
        self._max_restarts, self._window_seconds, self._run_dir = max_restarts, window_seconds, run_dir
        self._failures: dict[ProcessId, deque[tuple[float, str]]] = defaultdict(deque)
        self._due: dict[ProcessId, float] = {}
        # Once the run is given up, further failures do not matter.
        self._over = False

    def __contains__(self, process: ProcessId) -> bool:
        return self._over or process in self._due

    def plan(self, process: ProcessId, error: Exception, now: float) -> float:
        """Note a failure; returns the seconds until the restart.

        Raises TrainingStopped if training diverged, or, naming the first cause, if the process has failed too often.
        """
        keep_failure(self._run_dir, process, error)
        # Of Ray's errors the cause is the exception of the process itself.
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, TrainingDiverged):
            raise TrainingStopped(str(cause))
        failures = self._failures[process]
        failures.append((now, one_line(error)))
        while failures and failures[0][0] < now - self._window_seconds:
            failures.popleft()
        faulty = isinstance(cause, EnvironmentFault) and not isinstance(cause, EnvironmentRaised)
        if len(failures) > (min(MAX_FAULTY_LIVES, self._max_restarts) if faulty else self._max_restarts):
            self._over = True
            stopped = ActingStopped if process[0] in ("worker", "evaluator") else TrainingStopped
            raise stopped(
                f"{process[0]} {process[1]} failed {len(failures)} times within {self._window_seconds / 60:g} minutes. "
                f"The first failure: {failures[0][1]} (whole in {failure_file(self._run_dir, process)})"
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
