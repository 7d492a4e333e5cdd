"""What the supervisor and the processes tell each other: small requests and replies, bulk data goes directly.

A request carries the ports (`ReplayPort`, `WeightsPort`) through which its receiver reaches replay and weights,
so a replaced process is found again by everybody's next request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from actors.rollout import Episode
from replay.prioritized import SampledSequences


class PeerLost(RuntimeError):
    """The replay shard or weight server behind a port is gone or does not answer."""


class ReplayPort(Protocol):
    """The way to the replay. Every method may raise PeerLost."""

    @property
    def complaint(self) -> str:
        """Which parts of the replay were lost since the port was made, though the rest serves on; else empty."""

    def add(self, blobs: list[bytes], priorities: np.ndarray, new_steps: np.ndarray) -> tuple[int, dict[str, float]]:
        """Insert encoded sequences; returns the shard that took them and its `stats`."""

    def sample(
        self, batch_size: int, rank: int = 0, num_ranks: int = 1, rng: np.random.Generator | None = None
    ) -> SampledSequences:
        """Compressed sequences: the share of learner ``rank`` in a batch of ``batch_size`` for ``num_ranks`` ranks.

        ``rng`` places the draws; a whole batch of a single shard needs none, for that shard draws by itself.
        """

    def update_priorities(self, sampled: SampledSequences, priorities: np.ndarray) -> None:
        """New priorities [B] of sampled sequences; may take effect later."""


class WeightsPort(Protocol):
    """The way to the newest weights. Every method may raise PeerLost."""

    def publish(self, version: int, vector: np.ndarray) -> None:
        """Make ``vector`` the newest weights."""

    def pull(self, have: int) -> tuple[int, np.ndarray] | None:
        """(version, vector) of the newest weights, or None if ``have`` is that version."""


@dataclass
class RolloutRequest:
    """Act ``num_steps`` times in every lane; ``arms[l]`` are the next policies of lane l."""

    num_steps: int
    arms: list[list[int]]
    weights_version: int
    replay: ReplayPort
    weights: WeightsPort


@dataclass
class RolloutReply:
    """What one rollout request did; ``replay_stats``, of shard ``replay_shard``, is None if nothing was inserted.

    ``peer_lost`` says which shards did not answer; ``lost_sequences`` could not be delivered to any.
    ``running_state`` is what a replacement of this worker needs.
    """

    env_steps: int
    episodes: list[Episode]
    intrinsic_rewards: np.ndarray
    """A sample of r^i, float32 [n], for a histogram."""
    metrics: dict[str, float]
    arms_left: list[int]
    weights_version: int
    num_sequences: int
    lost_sequences: int
    replay_stats: dict[str, float] | None
    running_state: dict[str, Any]
    resident_bytes: int
    replay_shard: int = 0
    peer_lost: str | None = None
    faults: list[str] = field(default_factory=list)
    """What environments did wrong, a sentence for each episode that it cost."""


@dataclass
class UpdateRequest:
    """Make ``count`` updates, then publish the weights."""

    count: int
    replay: ReplayPort
    weights: WeightsPort


@dataclass
class UpdateReply:
    """What one update request did; fewer ``updates`` than asked for if a peer was lost (``peer_lost``)."""

    updates: int
    total_updates: int
    trained_transitions: int
    metrics: dict[str, float]
    peer_lost: str | None
    resident_bytes: int


@dataclass
class EvaluationRequest:
    """Advance the evaluator by ``max_steps`` steps.

    If a round begins with it: ``favourite_arm`` is training's, ``training_means`` [N] are the mean returns of its
    newest episodes by arm, ``running_state`` is one of its workers'.
    """

    max_steps: int
    favourite_arm: int
    begin: bool
    weights_version: int
    weights: WeightsPort
    running_state: dict[str, Any] | None = None
    training_means: np.ndarray | None = None


@dataclass
class EvaluationReply:
    """Episodes that ended; those of ``scored_arm`` are the score; ``bandit`` is the evaluator's state after them."""

    episodes: list[Episode]
    round_over: bool
    scored_arm: int
    bandit: dict[str, Any]
    resident_bytes: int
    clip: np.ndarray | None = None
    """At the end of a round: images of its first episode, uint8 [n, channels, height, width]."""
    faults: list[str] = field(default_factory=list)
    """As in `RolloutReply`."""


ProcessId = tuple[str, int]
"""(kind, index); kinds are "worker", "learner", "evaluator", "replay", "weights"."""

ESSENTIAL = ("learner", "replay")
"""Kinds of process without which nothing is learned; a checkpoint consists of theirs."""


Answer = RolloutReply | UpdateReply | EvaluationReply


@dataclass
class Reply:
    """An answer to a request: ``value``, or the ``error`` that came instead."""

    process: ProcessId
    value: Answer | None = None
    error: Exception | None = field(default=None)
