"""What becomes of processes that fail, wait for a place or are about to lose theirs; asked at every tick."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path

from actors.environments.door import EnvironmentFault, EnvironmentRaised
from cluster.run.checkpoint import Checkpoints
from cluster.run.config import TrainConfig
from cluster.run.errors import ActingStopped, TrainingStopped, one_line
from cluster.run.failures import failure_file, keep_failure
from cluster.run.messages import ESSENTIAL, ProcessId
from cluster.runtime.fleet import Fleet
from cluster.runtime.meta_controller import MetaController
from cluster.runtime.run_state import RunState
from cluster.runtime.sharded_replay import ShardStatistics
from learner.updates import TrainingDiverged
from replay.rate_limiter import RateLimiter

NODES_SECONDS = 5.0
"""Between two looks at which nodes are about to leave."""
WAITING_SECONDS = 60.0
"""How long processes may be without a place before the user is told."""

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


class Recovery:
    """Notes failures, replaces processes when their time has come, and keeps the books right about both.

    ``note`` tells the user.
    """

    def __init__(
        self,
        config: TrainConfig,
        state: RunState,
        fleet: Fleet,
        meta_controller: MetaController,
        limiter: RateLimiter,
        shards: ShardStatistics,
        checkpoints: Checkpoints,
        restarts: Restarts,
        note: Callable[[str], None],
    ) -> None:
        self._config, self._state, self._fleet, self._note = config, state, fleet, note
        self._meta_controller, self._limiter, self._shards = meta_controller, limiter, shards
        self._checkpoints, self._restarts = checkpoints, restarts
        self._leaving: set[ProcessId] = set()
        self._nodes_checked = 0.0
        self._waiting = self._waiting_told = 0
        self._waiting_since = 0.0

    def pending(self, process: ProcessId) -> bool:
        """Whether ``process`` has failed and is not replaced yet."""
        return process in self._restarts

    def preempted(self) -> bool:
        """Whether a node that learners or shards run on has been told, since the last question, to leave soon."""
        if time.monotonic() - self._nodes_checked < NODES_SECONDS:
            return False
        self._nodes_checked = time.monotonic()
        known, self._leaving = self._leaving, set(self._fleet.leaving())
        new = sorted(self._leaving - known)
        if not any(kind in ESSENTIAL for kind, _ in new):
            return False
        names = ", ".join(f"{kind} {index}" for kind, index in new)
        self._note(f"the node of {names} leaves soon: writing a checkpoint")
        return True

    def watch_places(self) -> None:
        """Tell the user when processes have waited for a place for a while, and when they need no longer.

        Workers give way where learners or replay wait: without those nothing is learned.
        """
        waiting = self._fleet.waiting()
        if len(waiting) != self._waiting:
            self._waiting, self._waiting_since = len(waiting), time.monotonic()
        if self._waiting_told == self._waiting or time.monotonic() - self._waiting_since < WAITING_SECONDS:
            return
        self._waiting_told = self._waiting
        for process in self._fleet.make_room():
            self._state.busy.discard(process)
            self._forget_arms(process[1])
            self._note(f"{process[0]} {process[1]} stopped to make room")
        names = ", ".join(f"{kind} {index}" for kind, index in waiting[:4]) + (", ..." if len(waiting) > 4 else "")
        text = f"{names} wait for free cores or GPUs: they start when a node joins" if waiting else "all have a place"
        self._note(text)

    def replace_lost_peers(self) -> None:
        for process in self._fleet.lost_peers():
            self.failed(process, RuntimeError("does not answer"))

    def failed(self, process: ProcessId, error: Exception) -> None:
        """Note a failure and plan the restart; one that cannot be mended, or comes too often, stops the run."""
        if process in self._restarts:
            return
        wait = self._restarts.plan(process, error, time.monotonic())
        text = f"{process[0]} {process[1]} failed ({one_line(error)}); restarting it in {wait:g} s"
        self._note(text)

    def _forget_arms(self, worker: int) -> None:
        """What ``worker`` held and played is gone with its process."""
        lanes = self._state.lanes_of(worker)
        self._state.arms_left[worker] = [0] * len(lanes)
        self._meta_controller.abandon(lanes)

    def begin_evaluation_anew(self) -> None:
        """A round that was broken off gets its score all the same, now."""
        if self._state.evaluating:
            self._state.evaluating, self._state.next_evaluation = False, self._state.env_frames

    def restart_due(self) -> None:
        for process in self._restarts.due(time.monotonic()):
            self._state.restarts += 1
            kind, index = process
            if kind == "worker":
                self._forget_arms(index)
                self._fleet.restart(process, None, self._state.running_states.get(index))
            elif kind == "evaluator":
                self.begin_evaluation_anew()
                self._fleet.restart(process, None, self._state.evaluator_bandit)
            else:
                checkpoint = self._checkpoints.latest(self._note, contents=False)
                self._fleet.restart(process, checkpoint, None)
                if kind == "replay":
                    self._shards.forget(index)
                    if self._shards.sequences < self._config.replay.min_sequences:
                        self._limiter.await_sequences()
            self._note(f"{kind} {index} restarted")
