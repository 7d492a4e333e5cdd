"""All processes of a run inside this one, without Ray: deterministic, debuggable, resumable bit for bit.

The supervisor drives it exactly as it drives `on_ray/fleet.py`. Requests run one after the other, in the order in
which they were submitted, and all of them within one `wait`; so nothing is half-way when a checkpoint is made.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from actors.environments.door import EnvironmentFault
from cluster.plan.freed_memory import keep_freed_memory
from cluster.run.checkpoint import load_tree, save_tree
from cluster.run.config import TrainConfig
from cluster.run.messages import Answer, EvaluationRequest, ProcessId, Reply, RolloutRequest, UpdateRequest
from cluster.runtime.fleet import Parts
from cluster.runtime.services import (
    EvaluatorService,
    LearnerService,
    LocalReplay,
    LocalWeights,
    RolloutService,
    resident_bytes,
)
from cluster.runtime.stopping import Grace
from learner.updates import TrainingDiverged
from replay.prioritized import PrioritizedReplay
from replay.redistribution import load_share
from replay.whole_files import Written


def _lanes_of(config: TrainConfig) -> dict[str, Any]:
    """What the saved state of lanes fits: lanes made otherwise must begin their episodes anew."""
    evaluation = {"episodes": config.evaluation.episodes, "policy_index": config.evaluation.policy_index}
    parts = {name: dataclasses.asdict(getattr(config, name)) for name in ("environment", "intrinsic", "sequence")}
    return {"lanes": config.cluster.lanes_per_worker, "evaluation": evaluation, **parts}


@dataclass
class _Unmade:
    """In place of a worker or evaluator whose environments failed while it was made or restored; says so when asked."""

    error: EnvironmentFault

    def rollout(self, request: object) -> NoReturn:
        raise self.error

    evaluate = rollout


@dataclass
class _AllWritten:
    """Parts of a checkpoint that are there already."""

    written: dict[str, Written]

    def poll(self) -> dict[str, Written]:
        return self.written


class SerialFleet:
    """One worker, one replay, one learner and one evaluator, called in turn."""

    exact_resume = True

    def __init__(self, config: TrainConfig) -> None:
        # One thread: the order of a parallel sum would make results depend on the machine's load.
        torch.set_num_threads(1)
        keep_freed_memory()
        self._config = config
        self.num_workers = 1
        self.grace = Grace(config.checkpoint.grace_seconds)
        self.lives = 0
        self._replay_memory = PrioritizedReplay(config.replay, config.seed)
        self.replay, self.weights = LocalReplay(self._replay_memory), LocalWeights()
        self._broken: set[ProcessId] = set()
        self._learner = LearnerService(config, serial=True)
        self._make_worker()
        self._make_evaluator()
        self._submitted: list[tuple[ProcessId, Callable[[], Answer]]] = []

    def _make_worker(self, state: dict | None = None) -> None:
        self._worker: RolloutService | _Unmade
        try:
            self._worker = RolloutService(self._config, 0, 1, reproducible=True, life=self.lives)
            if state is not None:
                self._worker.worker.load_state_dict(state)
        except EnvironmentFault as error:
            self._worker = _Unmade(error)

    def _make_evaluator(self, state: dict | None = None) -> None:
        self._evaluator: EvaluatorService | _Unmade
        try:
            self._evaluator = EvaluatorService(self._config, reproducible=True, life=self.lives)
            if state is not None:
                self._evaluator.evaluator.load_state_dict(state)
        except EnvironmentFault as error:
            self._evaluator = _Unmade(error)

    def begin_life(self) -> None:
        """Go on with other random numbers than before, where the state cannot be restored exactly."""
        self.lives += 1
        self._make_worker()
        self._make_evaluator()

    def start(self, checkpoint: Path | None) -> None:
        """Restore everything from ``checkpoint``, or begin afresh; then hand out the first weights."""
        if checkpoint is not None:
            self._learner.load(checkpoint)
            exact = self.resumes_exactly(checkpoint)
            load_share(self._replay_memory, checkpoint, 0, 1, exact)
            if exact:
                serial = load_tree(checkpoint, "serial")
                self._make_worker(serial["worker"])
                self._make_evaluator(serial["evaluator"])
        self._learner.publish(self.weights)

    def resumes_exactly(self, checkpoint: Path) -> bool:
        """Whether ``checkpoint`` holds the state of every lane, and lanes are as they were then."""
        if not (checkpoint / "serial.json").exists():
            return False
        return load_tree(checkpoint, "serial_lanes") == _lanes_of(self._config)

    replay_ready = can_save = True

    def ready(self, process: ProcessId) -> bool:
        """Whether ``process`` can take requests: always."""
        return True

    def waiting(self) -> list[ProcessId]:
        """Processes that have no place yet: none."""
        return []

    def leaving(self) -> list[ProcessId]:
        """Processes whose node is about to leave: none."""
        return []

    def make_room(self) -> list[ProcessId]:
        """Stop workers in favour of what waits for a place: nothing does."""
        return []

    def submit_rollout(self, worker: int, request: RolloutRequest) -> None:
        self._submitted.append((("worker", worker), lambda: self._worker.rollout(request)))

    def submit_update(self, request: UpdateRequest) -> None:
        self._submitted.append((("learner", 0), lambda: self._learner.update(request)))

    def submit_evaluation(self, request: EvaluationRequest) -> None:
        self._submitted.append((("evaluator", 0), lambda: self._evaluator.evaluate(request)))

    def wait(self, timeout: float) -> list[Reply]:
        """Run what was submitted. Errors are not caught: whoever debugs wants the traceback where it happened.

        Only diverged training and faults of environments are replies like any other, being no defects of the code.
        """
        submitted, self._submitted = self._submitted, []
        if not submitted:
            # Only while something waits for its restart.
            time.sleep(min(timeout, 0.05))
        replies = []
        for process, call in submitted:
            try:
                replies.append(Reply(process, call()))
            except (TrainingDiverged, EnvironmentFault) as error:
                if isinstance(error, EnvironmentFault):
                    self._broken.add(process)
                replies.append(Reply(process, error=error))
        return replies

    def lost_peers(self) -> list[ProcessId]:
        """Replay shards and weight servers that do not answer: none can die here."""
        return []

    def restart(self, process: ProcessId, checkpoint: Path | None, running_state: dict | None) -> None:
        """Make the worker or the evaluator anew, to go on from ``running_state``, after a fault of an environment."""
        self.lives += 1
        if process[0] == "worker":
            self._make_worker()
            if running_state is not None:
                self.restore_running_state(0, running_state)
        elif process[0] == "evaluator":
            self._make_evaluator()
            if running_state is not None:
                self.restore_evaluator(running_state)
        else:
            raise RuntimeError(f"{process[0]} {process[1]} cannot be restarted in the serial mode")
        self._broken.discard(process)

    def begin_save(self, directory: Path, gently: bool) -> Parts:
        """Write learner, replay, worker and evaluator into ``directory``; none of the last two while one is broken.

        A run that is resumed without them begins new episodes.
        """
        written = self._learner.save(directory) | self._replay_memory.save(directory, "replay-0")
        if not (self._broken or isinstance(self._worker, _Unmade) or isinstance(self._evaluator, _Unmade)):
            state = {
                "worker": self._worker.worker.state_dict(),
                "evaluator": self._evaluator.evaluator.state_dict(),
            }
            written |= save_tree(directory, "serial", state)
            written |= save_tree(directory, "serial_lanes", _lanes_of(self._config))
        return _AllWritten(written)

    def restore_running_state(self, worker: int, state: dict) -> None:
        """Hand a worker the running moments of its former life (a checkpoint that was not made serially)."""
        if isinstance(self._worker, RolloutService):
            self._worker.worker.lanes.load_running_state(state)

    def restore_evaluator(self, bandit: dict) -> None:
        """Hand the evaluator the bandit of its former life."""
        if isinstance(self._evaluator, EvaluatorService):
            self._evaluator.evaluator.bandit.load_state_dict(bandit)

    def priorities(self) -> np.ndarray:
        """Priorities of all stored sequences, for a histogram."""
        return self._replay_memory.priorities()

    def temporary_folders(self) -> list[Path]:
        """Folders outside the run's that must not become full: none."""
        return []

    def memory(self) -> dict[str, int]:
        """Resident bytes of processes that do not report theirs with each reply."""
        return {"all": resident_bytes()}

    def close(self) -> None:
        self._learner.close()

    def kill(self) -> None:
        """Nothing: all ends with this process."""
