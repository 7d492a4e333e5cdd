"""A fleet whose workers and learner are simulated, and whose everything else is real.

Real, in processes of their own as in training: the supervisor's own dispatch and telemetry, replay shards, the
weight server, Ray, and the learner process with its prefetching, decompression, priority updates and publishing.
Simulated: `PacedLearner` takes the time of an update without making one, and a `WorkerHost` plays many workers.

Why a few hosts stand for hundreds of workers: supervisor, shards and weight server know a worker by its messages
only, and these are the real ones, one by one. Each simulated worker has a request of its own in flight, pulls
weights by itself, pushes its own sequences (recorded from a real worker) and sends its own reply with episodes,
metrics and running moments of real size. What is missing is what happens inside a worker's core: playing,
encoding, and copying weights into networks, which cost nobody else anything; and one process's connection
per worker, of which there are as many as hosts.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from actors.rollout import Episode
from agent57.structures import SequenceBatch
from benchmarks.recorded_traffic import RecordedTraffic
from cluster.on_ray.fleet import RayFleet
from cluster.on_ray.remotes import LearnerProcess, Located, Location, RemoteShard, RemoteWeights
from cluster.plan.placement import Load, Node, Placement
from cluster.plan.topology import Topology
from cluster.run.config import TrainConfig
from cluster.run.messages import (
    PeerLost,
    ProcessId,
    ReplayPort,
    Reply,
    RolloutReply,
    RolloutRequest,
    UpdateReply,
    UpdateRequest,
)
from cluster.runtime import services
from learner.updates import UpdateResult
from replay.prioritized import SampledSequences

EPISODE_STEPS = 1000
"""Mean length of a simulated episode: random play of Pong ends after about as many steps."""
JITTER = 0.1
"""Requests take up to this share less or more time than the mean, as real ones do."""

Timing = tuple[str, float, float]
"""(what, when it ended by the system's monotonic clock, seconds it took)."""


def simulated_topology(config: TrainConfig, num_cores: int) -> Topology:
    """The topology that ``config`` names, on this machine whether it has the cores and the memory or not."""
    cluster, nothing = config.cluster, Load(0.0, 0.0, 0.0)
    machine = Node("this machine", float(num_cores), 0.0, 0.0)
    return Topology(
        nodes=(machine,),
        joined=False,
        serial=False,
        num_workers=cluster.num_workers,
        lanes_per_worker=cluster.lanes_per_worker,
        num_learners=1,
        replay_shards=cluster.replay_shards,
        learner_threads=1,
        learner_device="cpu",
        learner_gpus=0.0,
        worker=nothing,
        learner=nothing,
        shard=nothing,
        evaluator=nothing,
        placement=Placement((machine,), [[]], [0.0]),
        warnings=(),
    )


class SimulatedFleet(RayFleet):
    """`RayFleet` with simulated workers, ``num_hosts`` processes of them, and a learner that only waits.

    ``lane_steps_per_second`` is the speed of one lane, ``update_seconds`` the time of one update. ``replies_at_once``
    collects how many replies each `wait` found, which is the length of the supervisor's queue; ``replies`` counts
    them by kind of process.
    """

    def __init__(
        self,
        config: TrainConfig,
        topology: Topology,
        traffic: RecordedTraffic,
        lane_steps_per_second: float,
        update_seconds: float,
        num_hosts: int,
    ) -> None:
        super().__init__(config, topology)
        self._traffic, self._update_seconds = traffic, update_seconds
        self.replies_at_once: list[int] = []
        self.replies: Counter[str] = Counter()
        workers = -(-self.num_workers // num_hosts)
        host = ray.remote(WorkerHost).options(num_cpus=0, max_concurrency=workers + 2)
        shared = ray.put(traffic)
        self.hosts = [host.remote(config, shared, lane_steps_per_second, seed) for seed in range(num_hosts)]

    def _create(self, process: ProcessId, checkpoint: Path | None) -> None:
        if process[0] != "worker":
            super()._create(process, checkpoint)
            return
        self._handles[process] = WorkerSeat(self.hosts[process[1] % len(self.hosts)], process[1])
        self._locations[process] = Location("", 0)
        self._ready.add(process)

    def _create_learners(self, checkpoint: Path | None, adopt: bool) -> None:
        process = ("learner", 0)
        # A second thread, for `timings`.
        actor = ray.remote(SimulatedLearnerProcess).options(num_cpus=0, max_concurrency=2)
        self._add(process, actor.remote(self.config, self._traffic, self._update_seconds))
        self._call(process, "prepare", self._handles[process].prepare.remote("", self.weights, None, adopt))

    def wait(self, timeout: float) -> list[Reply]:
        replies = super().wait(timeout)
        if replies:
            self.replies_at_once.append(len(replies))
            self.replies.update(reply.process[0] for reply in replies)
        return replies

    def process_ids(self) -> dict[ProcessId, int]:
        """Process ids of the actors that are not workers, and of the hosts."""
        actors = {process: handle for process, handle in self._handles.items() if process[0] != "worker"}
        actors |= {("host", number): host for number, host in enumerate(self.hosts)}
        located = ray.get([actor.locate.remote() for actor in actors.values()], timeout=120)
        return {process: location.process_id for process, location in zip(actors, located, strict=True)}

    def inserted_sequences(self) -> int:
        """Sequences that all shards together received so far."""
        return sum(int(stats["sequences"] + stats["evicted"]) for stats in self._shard_stats())

    def evicted_sequences(self) -> int:
        """Sequences that all shards together had to give up so far."""
        return sum(int(stats["evicted"]) for stats in self._shard_stats())

    def _shard_stats(self) -> list[dict[str, float]]:
        shards = [RemoteShard(handle) for (kind, _), handle in self._handles.items() if kind == "replay"]
        return [answer() for answer in [shard.begin("stats") for shard in shards]]

    def timings(self) -> list[Timing]:
        """What hosts and learner timed since the last call."""
        timed = [*self.hosts, self._handles["learner", 0]]
        return [timing for part in ray.get([each.timings.remote() for each in timed], timeout=120) for timing in part]

    def save(self, directory: Path) -> None:
        """Nothing: checkpoints are no part of this benchmark."""

    def close(self) -> None:
        self._handles = {process: handle for process, handle in self._handles.items() if process[0] != "worker"}
        self._handles |= {("host", number): host for number, host in enumerate(self.hosts)}
        super().close()


class WorkerSeat:
    """Stands where the handle of a worker's own process would stand: passes its calls on to a host."""

    def __init__(self, host: Any, worker: int) -> None:
        self.rollout = _SeatMethod(host, worker)


@dataclass
class _SeatMethod:
    host: Any
    worker: int

    def remote(self, request: RolloutRequest) -> Any:
        return self.host.rollout.remote(self.worker, request)


@dataclass
class _Worker:
    """What a real worker would remember between two requests."""

    arms: list[deque[int]]
    steps_left: np.ndarray
    """Steps until each lane's episode ends, [L]."""
    owed_sequences: float = 0.0
    next_blob: int = 0
    weights_version: int = -1
    replied_at: float | None = None


class WorkerHost(Located):
    """Plays workers, each request on a thread of its own, which mostly sleeps."""

    def __init__(self, config: TrainConfig, traffic: RecordedTraffic, lane_steps_per_second: float, seed: int) -> None:
        self.config, self._traffic, self._speed = config, traffic, lane_steps_per_second
        self._rng = np.random.default_rng([seed, 57])
        self._workers: dict[int, _Worker] = {}
        self._timings: list[Timing] = []

    def rollout(self, worker: int, request: RolloutRequest) -> RolloutReply:
        """Serve a request as `RolloutService` does, sleeping in place of playing and encoding."""
        received = time.monotonic()
        lanes = self.config.cluster.lanes_per_worker
        seconds = request.num_steps / self._speed
        if worker not in self._workers:
            self._workers[worker] = self._new_worker(worker)
            # Workers of a run that is under way are not in step.
            time.sleep(seconds * self._rng.random())
        state = self._workers[worker]
        if state.replied_at is not None:
            self._timings.append(("idle", received, received - state.replied_at))
        start = time.monotonic()
        self._pull(state, request)
        time.sleep(max(0.0, start + seconds * self._rng.uniform(1 - JITTER, 1 + JITTER) - time.monotonic()))
        for queue, arms in zip(state.arms, request.arms, strict=True):
            queue.extend(arms)
        episodes = self._finish_episodes(worker, state, request.num_steps)
        count, lost, shard, stats = self._deliver(state, request, lanes * request.num_steps)
        reply = RolloutReply(
            env_steps=lanes * request.num_steps,
            episodes=episodes,
            intrinsic_rewards=self._rng.random(lanes, np.float32),
            metrics=self._traffic.worker_metrics,
            arms_left=[len(queue) for queue in state.arms],
            weights_version=state.weights_version,
            num_sequences=count - lost,
            lost_sequences=lost,
            replay_stats=stats,
            running_state=self._traffic.running_state,
            resident_bytes=services.resident_bytes(),
            replay_shard=shard,
            peer_lost=request.replay.complaint or None,
        )
        state.replied_at = time.monotonic()
        return reply

    def timings(self) -> list[Timing]:
        """What was timed since the last call."""
        timings, self._timings = self._timings, []
        return timings

    def _new_worker(self, worker: int) -> _Worker:
        lanes = self.config.cluster.lanes_per_worker
        return _Worker(
            arms=[deque() for _ in range(lanes)],
            steps_left=self._rng.integers(1, EPISODE_STEPS, lanes),
            next_blob=worker % len(self._traffic.blobs),
        )

    def _pull(self, state: _Worker, request: RolloutRequest) -> None:
        if request.weights_version == state.weights_version:
            return
        start = time.monotonic()
        try:
            newer = request.weights.pull(state.weights_version)
        except PeerLost:
            return
        if newer is not None:
            state.weights_version = newer[0]
            self._timings.append(("pull", time.monotonic(), time.monotonic() - start))

    def _finish_episodes(self, worker: int, state: _Worker, num_steps: int) -> list[Episode]:
        episodes = []
        state.steps_left -= num_steps
        for lane in np.flatnonzero(state.steps_left <= 0):
            length = int(self._rng.integers(EPISODE_STEPS // 2, 3 * EPISODE_STEPS // 2))
            state.steps_left[lane] += length
            arm = state.arms[lane].popleft() if state.arms[lane] else 0
            score = float(self._rng.integers(-21, 22))
            number = worker * len(state.arms) + int(lane)
            episodes.append(Episode(number, arm, 0.1, score, 0.1 * length, length))
        return episodes

    def _deliver(self, state: _Worker, request: RolloutRequest, env_steps: int) -> tuple[int, int, int, Any]:
        """(sequences, how many of them were lost, the shard that took them, its stats) of this request."""
        state.owed_sequences += env_steps / self.config.sequence.replay_period
        count = int(state.owed_sequences)
        state.owed_sequences -= count
        if not count:
            return 0, 0, 0, None
        chosen = (state.next_blob + np.arange(count)) % len(self._traffic.blobs)
        state.next_blob += count
        new_steps = np.full(count, self.config.sequence.replay_period, np.int64)
        start = time.monotonic()
        try:
            blobs = [self._traffic.blobs[number] for number in chosen]
            shard, stats = request.replay.add(blobs, self._traffic.priorities[chosen], new_steps)
        except PeerLost:
            return count, count, 0, None
        self._timings.append(("insert", time.monotonic(), time.monotonic() - start))
        return count, 0, shard, stats


class PacedLearner:
    """Takes the place of `Learner`: an update takes its time, and makes priorities, but no computation."""

    def __init__(self, traffic: RecordedTraffic, update_seconds: float) -> None:
        self._traffic, self._update_seconds = traffic, update_seconds
        self._rng = np.random.default_rng(0)
        # Random numbers, lest pages of zeros cost less than weights do.
        self._vector = self._rng.random(traffic.weight_count, np.float32)
        self.updates = 0
        self.bad_updates = 0
        self.device = torch.device("cpu")

    def start(self, batch: SequenceBatch[Any], importance: np.ndarray | None = None) -> UpdateResult:
        time.sleep(self._update_seconds)
        self.updates += 1
        count = len(batch.policy_index)
        return UpdateResult(self._rng.choice(self._traffic.priorities, count), self._traffic.learner_metrics)

    def finish(self, started: UpdateResult) -> UpdateResult:
        return started

    def weights(self) -> np.ndarray:
        return self._vector

    def synchronise(self) -> None:
        """There is one rank."""


class SimulatedLearnerProcess(LearnerProcess):
    """The real learner process around a `PacedLearner`, with its calls to the replay timed."""

    def __init__(self, config: TrainConfig, traffic: RecordedTraffic, update_seconds: float) -> None:
        super().__init__(config, threads=1, device="cpu", rank=0, num_ranks=1, life=0)
        self._traffic, self._update_seconds = traffic, update_seconds
        self._timings: list[Timing] = []

    def prepare(self, meeting_point: str, weights: RemoteWeights, load_from: str | None, adopt: bool) -> int:
        def paced(*_: object) -> PacedLearner:
            return PacedLearner(self._traffic, self._update_seconds)

        # In this process alone: the service then is the real one in everything else.
        services.Learner = paced  # type: ignore[misc, assignment]
        return super().prepare(meeting_point, weights, load_from, adopt)

    def update(self, request: UpdateRequest) -> UpdateReply:
        return super().update(replace(request, replay=TimedReplay(request.replay, self._timings)))

    def timings(self) -> list[Timing]:
        """What was timed since the last call."""
        timings = list(self._timings)
        del self._timings[: len(timings)]
        return timings


@dataclass
class TimedReplay:
    """A `ReplayPort` that notes how long each batch took to come."""

    replay: ReplayPort
    timings: list[Timing]

    @property
    def complaint(self) -> str:
        return self.replay.complaint

    def add(self, blobs: list[bytes], priorities: np.ndarray, new_steps: np.ndarray) -> tuple[int, dict[str, float]]:
        return self.replay.add(blobs, priorities, new_steps)

    def sample(
        self, batch_size: int, rank: int = 0, num_ranks: int = 1, rng: np.random.Generator | None = None
    ) -> SampledSequences:
        start = time.monotonic()
        sampled = self.replay.sample(batch_size, rank, num_ranks, rng)
        self.timings.append(("sample", time.monotonic(), time.monotonic() - start))
        return sampled

    def update_priorities(self, sampled: SampledSequences, priorities: np.ndarray) -> None:
        self.replay.update_priorities(sampled, priorities)
