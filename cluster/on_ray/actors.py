"""The Ray actors of a run: how each is made, where it runs, what it was asked and has answered."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from cluster.on_ray.places import Places
from cluster.on_ray.process_output import log_of
from cluster.on_ray.remotes import (
    CONCURRENCY_GROUPS,
    LEARNER_GROUPS,
    MAX_PENDING_CALLS,
    EvaluatorProcess,
    LearnerProcess,
    Location,
    RemoteWeights,
    ReplayProcess,
    RolloutProcess,
    WeightServer,
)
from cluster.plan.topology import Topology
from cluster.run.config import TrainConfig
from cluster.run.messages import ProcessId, Reply
from cluster.runtime.stopping import LAST_ANSWER_SECONDS, Grace

PING_TIMEOUT_SECONDS = 10.0
START_TIMEOUT_SECONDS = 300.0


class ProcessHung(RuntimeError):
    """A process did not answer a request within ``cluster.request_timeout_seconds``."""


@dataclass
class _Call:
    """A call in flight. ``what``: "place" (where does it run?), "prepare", or "request", which alone is a reply."""

    process: ProcessId
    what: str
    since: float


class RayActors:
    """All of them, by process, with the calls in flight to them; `RayFleet` drives them."""

    def __init__(self, config: TrainConfig, topology: Topology, run_dir: Path | None) -> None:
        self.config, self.topology = config, topology
        self.num_workers = topology.num_workers
        self.lives = 0
        self.grace = Grace(config.checkpoint.grace_seconds)
        self._run_dir = str(run_dir.resolve()) if run_dir is not None else None
        self._handles: dict[ProcessId, Any] = {}
        self._calls: dict[Any, _Call] = {}
        self._locations: dict[ProcessId, Location] = {}
        self._ready: set[ProcessId] = set()
        self._running_states: dict[int, dict] = {}
        self._evaluator_bandit: dict | None = None
        self._places = Places(topology)

    def begin_life(self) -> None:
        """Processes made from now on have other random numbers than those before."""
        self.lives += 1

    @property
    def weights(self) -> RemoteWeights:
        return RemoteWeights(self._handles["weights", 0])

    def ready(self, process: ProcessId) -> bool:
        """Whether ``process`` has a place and is restored; for ("learner", 0), whether all ranks are."""
        if process[0] == "learner":
            return all(("learner", rank) in self._ready for rank in range(self.topology.num_learners))
        return process in self._ready

    # Making and ending

    def _create_learners(self, checkpoint: Path | None, adopt: bool) -> None:
        topology = self.topology
        for rank in range(topology.num_learners):
            options = self._places.options(("learner", rank)) | _threads(topology.learner_threads)
            actor = ray.remote(concurrency_groups=LEARNER_GROUPS)(LearnerProcess)  # type: ignore[call-overload]
            actor = actor.options(**options)
            arguments = (self.config, topology.learner_threads, topology.learner_device, rank, topology.num_learners)
            self._add(("learner", rank), actor.remote(*arguments, self.lives))
        meeting_point = self._handles["learner", 0].meeting_point.remote()
        for rank in range(topology.num_learners):
            process = ("learner", rank)
            # Ray hands over the meeting point once rank 0 has said it.
            prepare = self._handles[process].prepare.remote(meeting_point, self.weights, _path(checkpoint), adopt)
            self._call(process, "prepare", prepare)

    def _create(self, process: ProcessId, checkpoint: Path | None) -> None:
        kind, index = process
        topology = self.topology
        options = self._places.options(process) | _threads(1)
        if kind == "weights":
            self._add(process, ray.remote(WeightServer).options(**options).remote())
        elif kind == "replay":
            actor = ray.remote(concurrency_groups=CONCURRENCY_GROUPS)(ReplayProcess)  # type: ignore[call-overload]
            actor = actor.options(max_pending_calls=MAX_PENDING_CALLS, **options)
            arguments = (self.config.replay, self.config.seed, index, topology.replay_shards, self.lives)
            self._add(process, actor.remote(*arguments))
            if checkpoint is not None:
                self._call(process, "prepare", self._handles[process].prepare.remote(_path(checkpoint)))
        elif kind == "evaluator":
            actor = ray.remote(EvaluatorProcess).options(**options)
            self._add(process, actor.remote(self.config, self._evaluator_bandit, self.lives))
        else:
            device = "cuda" if topology.worker.gpus else "cpu"
            actor = ray.remote(RolloutProcess).options(**options)
            state = self._running_states.get(index)
            self._add(process, actor.remote(self.config, index, self.num_workers, device, state, self.lives))

    def _add(self, process: ProcessId, handle: Any) -> None:
        self._handles[process] = handle
        log = None if self._run_dir is None else log_of(self._run_dir, process)
        self._call(process, "place", handle.locate.remote(None, log))

    def _remove(self, process: ProcessId) -> None:
        handle = self._handles.pop(process, None)
        if handle is not None:
            ray.kill(handle, no_restart=True)
        self._locations.pop(process, None)
        self._ready.discard(process)
        self._calls = {ref: call for ref, call in self._calls.items() if call.process != process}

    # Calls

    def _call(self, process: ProcessId, what: str, reference: Any) -> None:
        self._calls[reference] = _Call(process, what, time.monotonic())

    def _collect(self, reference: Any) -> Reply | None:
        call = self._calls.pop(reference)
        try:
            value = ray.get(reference, timeout=self._patience)
        except (RayError, GetTimeoutError) as error:
            return Reply(call.process, error=error)
        if call.what == "place":
            self._locations[call.process] = value
        if call.what != "request":
            rest = [other for other in self._calls.values() if other.process == call.process]
            for other in rest:
                # Only now can it have begun.
                other.since = time.monotonic()
            if not rest:
                self._ready.add(call.process)
        return Reply(call.process, value) if call.what == "request" else None

    def _hung(self) -> list[Reply]:
        """Failures of processes that have a place, but do not answer."""
        replies = []
        for reference, call in list(self._calls.items()):
            limit = self.config.cluster.request_timeout_seconds
            if call.what != "request":
                limit = max(limit, START_TIMEOUT_SECONDS)
            if call.process in self._locations and time.monotonic() - call.since > limit:
                del self._calls[reference]
                replies.append(Reply(call.process, error=ProcessHung(f"no answer within {limit:.0f} s")))
        return replies

    @property
    def _patience(self) -> float:
        """Seconds for an answer that is due at once."""
        return self.grace.left(PING_TIMEOUT_SECONDS, LAST_ANSWER_SECONDS)


def _path(checkpoint: Path | None) -> str | None:
    return str(checkpoint.resolve()) if checkpoint is not None else None


def _threads(threads: int) -> dict[str, Any]:
    """Options that keep a process's math libraries to ``threads`` threads from the start."""
    return {"runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(threads), "MALLOC_ARENA_MAX": "2"}}}
