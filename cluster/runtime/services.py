"""What each kind of process does with a request, without Ray: act and deliver, sample and learn, evaluate.

`cluster/on_ray/fleet.py` runs each service in a process of its own, `cluster/runtime/serial_fleet.py` runs all in one.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.environments.contract import environment_spec
from actors.evaluator import Evaluator
from actors.extensions import load_extensions
from actors.rollout import RolloutWorker
from agent57.structures import SequenceBatch, SequenceSpec
from cluster.run.checkpoint import load_tree, save_tree
from cluster.run.config import TrainConfig
from cluster.run.messages import (
    EvaluationReply,
    EvaluationRequest,
    PeerLost,
    ReplayPort,
    RolloutReply,
    RolloutRequest,
    UpdateReply,
    UpdateRequest,
    WeightsPort,
)
from cluster.telemetry.mean_accumulator import MeanAccumulator
from learner.data_parallel import DistributedRanks, Ranks
from learner.learner import Learner, resolve_device
from learner.prefetch import Prefetcher
from learner.updates import StartedUpdate
from replay.codec import decode_batch, encode_sequence
from replay.prioritized import PrioritizedReplay, SampledSequences
from replay.whole_files import Written


def resident_bytes() -> int:
    """Physical memory of this process, in bytes."""
    with Path("/proc/self/statm").open() as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sequence_spec(config: TrainConfig) -> SequenceSpec:
    """The shapes that actors, replay and learner of this run share."""
    spec = environment_spec(config.env, config.environment)
    return SequenceSpec.of(config.agent, spec)


def _pull(target: RolloutWorker | Evaluator, weights: WeightsPort, wanted: int) -> None:
    """Fetch newer weights if there are any; an unreachable weight server only means older weights."""
    have = target.lanes.weights_version
    if wanted == have:
        return
    try:
        newer = weights.pull(have)
    except PeerLost:
        return
    if newer is not None:
        target.set_weights(*newer)


class RolloutService:
    """One rollout worker: pulls weights, acts, encodes sequences and delivers them."""

    def __init__(
        self,
        config: TrainConfig,
        index: int,
        num_workers: int,
        reproducible: bool = False,
        device: str = "cpu",
        life: int = 0,
    ) -> None:
        load_extensions(config.agent)
        lanes = config.cluster.lanes_per_worker
        self.worker = RolloutWorker(
            config.env,
            config.agent,
            config.actor,
            config.environment,
            first_lane=index * lanes,
            num_lanes=lanes,
            total_lanes=num_workers * lanes,
            seed=config.seed,
            reproducible=reproducible,
            device=device,
            life=life,
        )

    def rollout(self, request: RolloutRequest) -> RolloutReply:
        """Serve one request; sequences that cannot be delivered are dropped and counted."""
        start = time.perf_counter()
        _pull(self.worker, request.weights, request.weights_version)
        pulled = time.perf_counter()
        rollout = self.worker.rollout(request.num_steps, request.arms)
        played = time.perf_counter()
        blobs = [encode_sequence(sequence) for sequence in rollout.sequences]
        encoded = time.perf_counter()
        stats, lost, shard = None, 0, 0
        if blobs:
            try:
                shard, stats = request.replay.add(blobs, rollout.priorities, rollout.new_steps)
            except PeerLost:
                lost = len(blobs)
        metrics = rollout.metrics | {
            "actor/pull_seconds": pulled - start,
            "actor/encode_seconds": encoded - played,
            "actor/deliver_seconds": time.perf_counter() - encoded,
            "actor/steps_per_second": rollout.env_steps / (time.perf_counter() - start),
        }
        if len(rollout.priorities):
            metrics["replay/initial_priority"] = float(rollout.priorities.mean())
        return RolloutReply(
            env_steps=rollout.env_steps,
            episodes=rollout.episodes,
            intrinsic_rewards=rollout.intrinsic_rewards,
            metrics=metrics,
            arms_left=rollout.arms_left,
            weights_version=rollout.weights_version,
            num_sequences=len(blobs) - lost,
            lost_sequences=lost,
            replay_stats=stats,
            running_state=self.worker.lanes.running_state(),
            resident_bytes=resident_bytes(),
            replay_shard=shard,
            peer_lost=request.replay.complaint or None,
            faults=rollout.faults,
        )


def join_ranks(rank: int, count: int, meeting_point: str, device: str) -> Ranks:
    """This learner's place among ``count``; waits for the others."""
    return Ranks() if count == 1 else DistributedRanks(rank, count, meeting_point, resolve_device(device))


class LearnerService:
    """The learner with its supply of batches: sampled and decompressed ahead, on a thread, unless ``serial``.

    One of several ``ranks`` fetches its part of each batch by itself; all must get the same requests.
    """

    def __init__(
        self,
        config: TrainConfig,
        serial: bool = False,
        ranks: Ranks | None = None,
        device: str | None = None,
        life: int = 0,
    ) -> None:
        load_extensions(config.agent)
        self.config, self._serial = config, serial
        self.ranks = ranks or Ranks()
        self._spec = sequence_spec(config)
        learner = config.learner if device is None else dataclasses.replace(config.learner, device=device)
        self.learner = Learner(config.agent, learner, self._spec.environment, config.seed, self.ranks)
        self._ahead = 1 if self.learner.device.type == "cuda" else 0
        """Updates that may be at work while another is started; on a CPU nothing runs beside this thread."""
        self._rng = np.random.default_rng([config.seed, 12, self.ranks.rank, life])
        self._replay: ReplayPort | None = None
        self._batches: Iterator[tuple[SampledSequences, SequenceBatch[Any]]] | None = None

    def update(self, request: UpdateRequest) -> UpdateReply:
        """Make the updates and publish; stops early, saying why, if the replay is lost.

        Raises TrainingDiverged when updates stay NaN or infinite.
        """
        self._replay = request.replay
        batches = self._supply()
        means = MeanAccumulator()
        updates = transitions = 0
        peer_lost = None
        # A GPU works on one update while the results of the one before are dealt with and the next is prepared.
        at_work: deque[tuple[SampledSequences, StartedUpdate]] = deque()
        while updates < request.count:
            start = time.perf_counter()
            try:
                sampled, batch = next(batches)
            except PeerLost as error:
                batch = None
                peer_lost = str(error)
            trained = self._agree(batch)
            if batch is None or trained is None:
                break
            fetched = time.perf_counter()
            at_work.append((sampled, self.learner.start(batch, self._importance(sampled))))
            updates += 1
            transitions += trained
            if len(at_work) > self._ahead:
                peer_lost = self._finish(*at_work.popleft(), means) or peer_lost
            means.add("learner/fetch_seconds", fetched - start)
            means.add("learner/update_seconds", time.perf_counter() - fetched)
            means.add("replay/sampled_age", float(sampled.ages.mean()))
            means.add("replay/sampled_length", batch.num_transitions / len(sampled.slots))
        while at_work:
            peer_lost = self._finish(*at_work.popleft(), means) or peer_lost
        peer_lost = self.publish(request.weights) or peer_lost or request.replay.complaint or None
        metrics = means.drain() | {"learner/bad_updates": float(self.learner.bad_updates)}
        return UpdateReply(updates, self.learner.updates, transitions, metrics, peer_lost, resident_bytes())

    def _finish(self, sampled: SampledSequences, started: StartedUpdate, means: MeanAccumulator) -> str | None:
        """Send the new priorities, count the metrics; returns which shard was lost, or None."""
        result = self.learner.finish(started)
        for name, value in result.metrics.items():
            means.add(name, value)
        if result.priorities is None:
            return None
        means.add("replay/updated_priority", float(result.priorities.mean()))
        try:
            assert self._replay is not None
            self._replay.update_priorities(sampled, result.priorities)
        except PeerLost as error:
            return str(error)
        return None

    def _importance(self, sampled: SampledSequences) -> np.ndarray | None:
        exponent = self.config.replay.importance_exponent
        return sampled.probabilities**-exponent if exponent else None

    def _agree(self, batch: SequenceBatch[Any] | None) -> int | None:
        """Valid transitions in the batch of all ranks, or None if one of them has none to train on."""
        if self.ranks.count == 1:
            return None if batch is None else batch.num_transitions
        mine = [0.0, 0.0] if batch is None else [1.0, float(batch.num_transitions)]
        present, transitions = self.ranks.sum_(torch.tensor(mine, device=self.learner.device)).tolist()
        return int(transitions) if present == self.ranks.count else None

    def publish(self, weights: WeightsPort) -> str | None:
        """Hand the current weights to the weight server, if rank 0; returns what went wrong, or None."""
        if self.ranks.rank != 0:
            return None
        try:
            weights.publish(self.learner.updates, self.learner.weights())
        except PeerLost as error:
            return str(error)
        return None

    def adopt_weights(self, weights: WeightsPort) -> None:
        """Go on from the weights that the weight server still holds, if they are newer than what was loaded."""
        try:
            newest = weights.pull(-1)
        except PeerLost:
            return
        if newest is not None and newest[0] > self.learner.updates:
            self.learner.load_weights(*newest)

    def save(self, directory: Path) -> dict[str, Written]:
        return save_tree(directory, "learner", self.learner.state_dict())

    def snapshot(self) -> Any:
        """What `save` would write now, in memory of its own."""
        return _copied(self.learner.state_dict())

    def load(self, directory: Path) -> None:
        self.learner.load_state_dict(load_tree(directory, "learner"))

    def close(self) -> None:
        """End the prefetch thread."""
        if isinstance(self._batches, Prefetcher):
            self._batches.close()
        self._batches = None

    def _supply(self) -> Iterator[tuple[SampledSequences, SequenceBatch[Any]]]:
        if self._batches is None:
            ahead = self.config.cluster.prefetch_batches
            self._batches = iter(self._fetch, None) if self._serial else Prefetcher(self._fetch, ahead)
        return self._batches

    def _fetch(self) -> tuple[SampledSequences, SequenceBatch[Any]]:
        assert self._replay is not None
        sampled = self._replay.sample(self.config.learner.batch_size, self.ranks.rank, self.ranks.count, self._rng)
        batch = decode_batch(sampled.blob, sampled.offsets, self._spec)
        return sampled, batch.pinned() if self.learner.device.type == "cuda" else batch


def _copied(tree: Any) -> Any:
    """``tree`` with copies of its tensors, on the CPU."""
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_copied(value) for value in tree)
    return tree.detach().to("cpu", copy=True) if isinstance(tree, torch.Tensor) else tree


class EvaluatorService:
    """The evaluator: pulls weights when a round begins, plays it piece by piece."""

    def __init__(self, config: TrainConfig, reproducible: bool = False, life: int = 0) -> None:
        load_extensions(config.agent)
        self.evaluator = Evaluator(
            config.env,
            config.agent,
            config.evaluation,
            config.environment,
            config.seed,
            config.actor.torso_dtype,
            reproducible,
            life=life,
        )

    def evaluate(self, request: EvaluationRequest) -> EvaluationReply:
        evaluator = self.evaluator
        if request.begin:
            _pull(evaluator, request.weights, request.weights_version)
            evaluator.set_moments(request.running_state)
            evaluator.begin(request.favourite_arm, request.training_means)
        episodes = evaluator.play(request.max_steps)
        return EvaluationReply(
            episodes=episodes,
            round_over=not evaluator.playing,
            scored_arm=evaluator.scored_arm,
            bandit=evaluator.bandit.state_dict(),
            resident_bytes=resident_bytes(),
            clip=None if evaluator.playing else evaluator.clip,
            faults=evaluator.lanes.environments.take_faults(),
        )


class LocalReplay:
    """`ReplayPort` to a replay in this process."""

    def __init__(self, replay: PrioritizedReplay) -> None:
        self._replay = replay

    complaint = ""

    def add(self, blobs: list[bytes], priorities: np.ndarray, new_steps: np.ndarray) -> tuple[int, dict[str, float]]:
        self._replay.add(blobs, priorities, new_steps)
        return 0, self._replay.stats()

    def sample(
        self, batch_size: int, rank: int = 0, num_ranks: int = 1, rng: np.random.Generator | None = None
    ) -> SampledSequences:
        assert num_ranks == 1
        return self._replay.sample(batch_size)

    def update_priorities(self, sampled: SampledSequences, priorities: np.ndarray) -> None:
        self._replay.update_priorities(sampled.slots, sampled.keys, priorities)


class LocalWeights:
    """`WeightsPort` within this process."""

    def __init__(self) -> None:
        self._newest: tuple[int, np.ndarray] | None = None

    def publish(self, version: int, vector: np.ndarray) -> None:
        self._newest = (version, vector)

    def pull(self, have: int) -> tuple[int, np.ndarray] | None:
        return None if self._newest is None or self._newest[0] == have else self._newest
