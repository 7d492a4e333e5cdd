"""The Ray actors: each wraps one plain class once, and the ports through which they reach each other.

Payloads follow the measurements in Ray's favour: batches of compressed bytes are pushed and pulled as one
buffer, weights are one flat vector that the weight server owns, every wait has a timeout.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError

from cluster.config import TrainConfig
from cluster.messages import (
    EvaluationReply,
    EvaluationRequest,
    PeerLost,
    RolloutReply,
    RolloutRequest,
    UpdateReply,
    UpdateRequest,
)
from replay.prioritized import PrioritizedReplay, ReplayConfig, SampledSequences

PEER_TIMEOUT_SECONDS = 60.0
"""Longest wait of a process for the replay or the weight server."""


@dataclass
class RemoteReplay:
    """`ReplayPort` to a replay shard."""

    handle: Any

    def add(self, blobs: list[bytes], priorities: np.ndarray, new_steps: np.ndarray) -> dict[str, float]:
        sizes = np.array([len(blob) for blob in blobs], np.int64)
        joined = np.frombuffer(b"".join(blobs), np.uint8)
        return _get(self.handle.add.remote(joined, sizes, priorities, new_steps), "the replay")

    def sample(self, batch_size: int) -> SampledSequences:
        return _get(self.handle.sample.remote(batch_size), "the replay")

    def update_priorities(self, slots: np.ndarray, keys: np.ndarray, priorities: np.ndarray) -> None:
        # Not waited for at once: the learner would idle. References are kept so that errors surface.
        _UNCONFIRMED.append(self.handle.update_priorities.remote(slots, keys, priorities))
        while len(_UNCONFIRMED) > MAX_UNCONFIRMED:
            _get(_UNCONFIRMED.popleft(), "the replay")


MAX_UNCONFIRMED = 8
_UNCONFIRMED: deque[Any] = deque()


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


class WeightServer:
    """Keeps the newest weights in Ray's object store, as their owner: a dead learner takes none with it."""

    def __init__(self) -> None:
        self._version, self._reference = -1, None

    def publish(self, version: int, vector: np.ndarray) -> None:
        self._version, self._reference = version, ray.put(vector)

    def pull(self, have: int) -> tuple[int, list[Any]] | None:
        """(version, [reference]), in a list so that Ray hands over the reference and not the vector."""
        return None if self._version in (have, -1) else (self._version, [self._reference])

    def memory(self) -> int:
        """Resident bytes of this process."""
        from cluster.services import resident_bytes

        return resident_bytes()


class ReplayShard:
    """One `PrioritizedReplay`, filled from and drained into joined buffers."""

    def __init__(self, config: ReplayConfig, seed: int, load_from: str | None) -> None:
        self._replay = PrioritizedReplay(config, seed)
        if load_from is not None:
            self._replay.load(Path(load_from), "replay-0")

    def add(
        self, joined: np.ndarray, sizes: np.ndarray, priorities: np.ndarray, new_steps: np.ndarray
    ) -> dict[str, float]:
        # Copies: views would pin the message in the object store for as long as the sequences live.
        ends = np.cumsum(sizes)
        blobs = [joined[end - size : end].tobytes() for end, size in zip(ends, sizes, strict=True)]
        self._replay.add(blobs, priorities, new_steps)
        return self.stats()

    def sample(self, batch_size: int) -> SampledSequences:
        return self._replay.sample(batch_size)

    def update_priorities(self, slots: np.ndarray, keys: np.ndarray, priorities: np.ndarray) -> None:
        self._replay.update_priorities(slots, keys, priorities)

    def priorities(self) -> np.ndarray:
        return self._replay.priorities()

    def stats(self) -> dict[str, float]:
        from cluster.services import resident_bytes

        return self._replay.stats() | {"resident_bytes": float(resident_bytes())}

    def save(self, directory: str) -> None:
        self._replay.save(Path(directory), "replay-0")

    def pid(self) -> int:
        return os.getpid()


class RolloutProcess:
    """`RolloutService` on one core."""

    def __init__(self, config: TrainConfig, index: int, num_workers: int, running_state: dict | None) -> None:
        _use_threads(1)
        from cluster.services import RolloutService

        self._service = RolloutService(config, index, num_workers)
        if running_state is not None:
            self._service.worker.lanes.load_running_state(running_state)

    def rollout(self, request: RolloutRequest) -> RolloutReply:
        return self._service.rollout(request)

    def pid(self) -> int:
        return os.getpid()


class LearnerProcess:
    """`LearnerService`, with the learner's threads."""

    def __init__(
        self, config: TrainConfig, threads: int, weights: RemoteWeights, load_from: str | None, adopt: bool
    ) -> None:
        _use_threads(threads)
        from cluster.services import LearnerService

        self._service = LearnerService(config)
        if load_from is not None:
            self._service.load(Path(load_from))
        if adopt:
            self._service.adopt_weights(weights)
        self._service.publish(weights)

    def update(self, request: UpdateRequest) -> UpdateReply:
        return self._service.update(request)

    def publish(self, weights: RemoteWeights) -> int:
        """Hand out the current weights again, to a new weight server; returns their version."""
        self._service.publish(weights)
        return self._service.learner.updates

    def save(self, directory: str) -> None:
        self._service.save(Path(directory))

    def pid(self) -> int:
        return os.getpid()


class EvaluatorProcess:
    """`EvaluatorService` on whatever core is free."""

    def __init__(self, config: TrainConfig, bandit: dict | None) -> None:
        _use_threads(1)
        from cluster.services import EvaluatorService

        self._service = EvaluatorService(config)
        if bandit is not None:
            self._service.evaluator.bandit.load_state_dict(bandit)

    def evaluate(self, request: EvaluationRequest) -> EvaluationReply:
        return self._service.evaluate(request)

    def pid(self) -> int:
        return os.getpid()


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
