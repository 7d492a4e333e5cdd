"""The Ray actors: each wraps one plain class once, and the ports through which they reach each other.

Payloads follow the measurements in Ray's favour: batches of compressed bytes are pushed and pulled as one
buffer, weights are one flat vector that the weight server owns, every wait has a timeout.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError

from cluster.on_ray.process_output import keep_output
from cluster.plan.freed_memory import keep_freed_memory
from cluster.run.config import TrainConfig
from cluster.run.messages import (
    EvaluationReply,
    EvaluationRequest,
    PeerLost,
    RolloutReply,
    RolloutRequest,
    UpdateReply,
    UpdateRequest,
)
from cluster.runtime.sharded_replay import Answer, ReplayShard
from replay.config import ReplayConfig
from replay.whole_files import Written

PEER_TIMEOUT_SECONDS = 60.0
"""Longest wait of a process for the replay or the weight server."""


CONCURRENCY_GROUPS = {"insert": 1, "draw": 2, "control": 1}
"""Threads of a shard: a flood of new sequences must not keep the learner, or a question, waiting."""
_GROUP_OF = {"add": "insert", "mass": "draw", "sample": "draw", "sample_at": "draw", "update_priorities": "draw"}
LEARNER_GROUPS = {"disk": 1}
"""A thread of a learner beside the one that computes: its part of a checkpoint is written there."""
MAX_PENDING_CALLS = 4096
"""Calls that one process may have waiting at a shard; a safety net, far above what any has in flight."""


@dataclass
class RemoteShard:
    """`ShardPort` to a `ReplayShard` in another process."""

    handle: Any

    def begin(self, method: str, *arguments: Any) -> Answer:
        call = getattr(self.handle, method).options(concurrency_group=_GROUP_OF.get(method, "control"))
        try:
            reference = call.remote(*arguments)
        except RayError as error:
            raise PeerLost(f"it takes no calls: {type(error).__name__}") from error
        return lambda: _get(reference, "it")


@dataclass
class RemoteWeights:
    """`WeightsPort` to the weight server."""

    handle: Any

    def publish(self, version: int, vector: np.ndarray) -> None:
        _get(self.handle.publish.remote(version, vector), "the weight server")

    def pull(self, have: int) -> tuple[int, np.ndarray] | None:
        answer = _get(self.handle.pull.remote(have), "the weight server")
        if answer is None:
            return None
        version, (reference,) = answer
        return version, _get(reference, "the weight server")


def _get(reference: Any, peer: str) -> Any:
    try:
        return ray.get(reference, timeout=PEER_TIMEOUT_SECONDS)
    except (RayError, GetTimeoutError) as error:
        raise PeerLost(f"{peer} did not answer: {type(error).__name__}: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True)
class Location:
    """Where a process runs."""

    node_id: str
    process_id: int


class Located:
    """What every process can be asked as soon as it exists; nothing slow happens before."""

    def locate(self, run_dir: str | None = None, log: str | None = None) -> Location:
        """Raises FileNotFoundError if ``run_dir`` is not there on this node; keeps what is printed in ``log``."""
        if log is not None:
            keep_output(Path(log))
        if run_dir is not None and not Path(run_dir).is_dir():
            raise FileNotFoundError(f"{run_dir} does not exist on node {ray.util.get_node_ip_address()}")
        return Location(ray.get_runtime_context().get_node_id(), os.getpid())


class WeightServer(Located):
    """Keeps the newest weights in Ray's object store, as their owner: a dead learner takes none with it."""

    def __init__(self) -> None:
        self._version = -1
        self._reference: ray.ObjectRef | None = None

    def publish(self, version: int, vector: np.ndarray) -> None:
        self._version, self._reference = version, ray.put(vector)

    def pull(self, have: int) -> tuple[int, list[Any]] | None:
        """(version, [reference]), in a list so that Ray hands over the reference and not the vector."""
        return None if self._version in (have, -1) else (self._version, [self._reference])

    def memory(self) -> int:
        """Resident bytes of this process."""
        from cluster.runtime.services import resident_bytes

        return resident_bytes()


class ReplayProcess(Located, ReplayShard):
    """A replay shard that is there at once, and filled by `prepare`."""

    def __init__(self, config: ReplayConfig, seed: int, index: int, num_shards: int, life: int) -> None:
        super().__init__(config, seed, index, num_shards, None, life)
        self._arguments, self._life = (config, seed, index, num_shards), life

    def prepare(self, load_from: str | None) -> None:
        """Continue from a checkpoint, or stay empty; to be called before all else."""
        if load_from is not None:
            ReplayShard.__init__(self, *self._arguments, load_from, self._life)


class RolloutProcess(Located):
    """`RolloutService` on one core; it comes to life with the first request."""

    def __init__(
        self, config: TrainConfig, index: int, num_workers: int, device: str, running_state: dict | None, life: int
    ) -> None:
        self._arguments = (config, index, num_workers, device, life)
        self._running_state = running_state
        self._service: Any = None

    def rollout(self, request: RolloutRequest) -> RolloutReply:
        if self._service is None:
            _prepare_computing(1)
            from cluster.runtime.services import RolloutService

            config, index, num_workers, device, life = self._arguments
            service = RolloutService(config, index, num_workers, device=device, life=life)
            if self._running_state is not None:
                service.worker.lanes.load_running_state(self._running_state)
            self._service, self._running_state = service, None
        return self._service.rollout(request)


class LearnerProcess(Located):
    """`LearnerService`, with the learner's threads: rank ``rank`` of ``num_ranks``."""

    def __init__(self, config: TrainConfig, threads: int, device: str, rank: int, num_ranks: int, life: int) -> None:
        self._config, self._threads, self._device, self._life = config, threads, device, life
        self._rank, self._num_ranks = rank, num_ranks
        self._service: Any = None
        self._snapshot: Any = None

    def meeting_point(self) -> str:
        """host:port at which the ranks meet; asked of rank 0."""
        host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            return f"{host}:{probe.getsockname()[1]}"

    def prepare(self, meeting_point: str, weights: RemoteWeights, load_from: str | None, adopt: bool) -> int:
        """Meet the other ranks, restore, and hand out the first weights; returns the number of updates made.

        With ``adopt``, published weights are taken where they are newer than ``load_from``.
        """
        _prepare_computing(self._threads)
        from cluster.runtime.services import LearnerService, join_ranks

        ranks = join_ranks(self._rank, self._num_ranks, meeting_point, self._device)
        self._service = LearnerService(self._config, ranks=ranks, device=self._device, life=self._life)
        if load_from is not None:
            self._service.load(Path(load_from))
        if adopt and self._rank == 0:
            self._service.adopt_weights(weights)
        self._service.learner.synchronise()
        self._service.publish(weights)
        return self._service.learner.updates

    def update(self, request: UpdateRequest) -> UpdateReply:
        return self._service.update(request)

    def publish(self, weights: RemoteWeights) -> int:
        """Hand out the current weights again, to a new weight server; returns their version."""
        self._service.publish(weights)
        return self._service.learner.updates

    def snapshot(self) -> None:
        """Copy what `save` is to write, between two requests."""
        self._snapshot = self._service.snapshot()

    def save(self, directory: str, _: None) -> dict[str, Written]:
        """Write the snapshot, on a thread beside the updates; to be called with the answer of `snapshot`."""
        from cluster.run.checkpoint import save_tree

        taken, self._snapshot = self._snapshot, None
        return save_tree(Path(directory), "learner", taken)


class EvaluatorProcess(Located):
    """`EvaluatorService` on whatever core is free; it comes to life with the first request."""

    def __init__(self, config: TrainConfig, bandit: dict | None, life: int) -> None:
        self._config, self._bandit, self._life = config, bandit, life
        self._service: Any = None

    def evaluate(self, request: EvaluationRequest) -> EvaluationReply:
        if self._service is None:
            _prepare_computing(1)
            from cluster.runtime.services import EvaluatorService

            service = EvaluatorService(self._config, life=self._life)
            if self._bandit is not None:
                service.evaluator.bandit.load_state_dict(self._bandit)
            self._service = service
        return self._service.evaluate(request)


def _prepare_computing(threads: int) -> None:
    import torch

    keep_freed_memory()
    torch.set_num_threads(threads)
    # Ctrl-C is the driver's: a KeyboardInterrupt here comes out of an environment (`actors/environments/door.py`).
    with contextlib.suppress(ValueError):  # not on the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)
