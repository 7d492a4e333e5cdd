"""The replay as its users see it: S shards behind one port, drawn from as one, used on while some are lost.

Workers and learners hold a `ShardedReplay` that came with their last request. New sequences go to one shard per
call, a batch comes from all (`replay/global_draw.py`), priorities go back to where a sequence came from. A shard
that does not answer is left out for the rest of the request: the others go on, and the request's reply says so.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from agent57.config import require
from cluster.run.messages import PeerLost
from replay.config import ReplayConfig
from replay.global_draw import join, locate, stratified_positions
from replay.prioritized import PrioritizedReplay, SampledSequences
from replay.redistribution import load_share
from replay.whole_files import Written

MAX_UNCONFIRMED = 8
"""Priority updates in flight per shard; the next one waits for the oldest."""

Answer = Callable[[], Any]
"""Waits for the answer of a call that was begun; raises PeerLost if there is none."""


class ShardPort(Protocol):
    """The way to one shard."""

    def begin(self, method: str, *arguments: Any) -> Answer:
        """Call a method of `ReplayShard` without waiting for it. Raises PeerLost if it cannot be called at all."""


@dataclass
class ShardedReplay:
    """`ReplayPort` to all shards; None stands for one that is being replaced.

    ``home`` is the shard that gets new sequences, or the next one that answers.
    """

    shards: list[ShardPort | None]
    home: int = 0
    lost: dict[int, str] = field(default_factory=dict)
    """Shards that did not answer since this port was made, and why."""

    def add(self, blobs: list[bytes], priorities: np.ndarray, new_steps: np.ndarray) -> tuple[int, dict[str, float]]:
        sizes = np.array([len(blob) for blob in blobs], np.int64)
        joined = np.frombuffer(b"".join(blobs), np.uint8)
        for offset in range(len(self.shards)):
            shard = (self.home + offset) % len(self.shards)
            stats = self._ask({shard: (joined, sizes, priorities, new_steps)}, "add").get(shard)
            if stats is not None:
                return shard, stats
        raise PeerLost(self.complaint or "all replay shards are being replaced")

    def sample(
        self, batch_size: int, rank: int = 0, num_ranks: int = 1, rng: np.random.Generator | None = None
    ) -> SampledSequences:
        if len(self.shards) == num_ranks == 1:
            sampled = self._ask({0: (batch_size,)}, "sample").get(0)
            if sampled is None:
                raise PeerLost(self.complaint or "the replay is being replaced")
            return sampled
        assert rng is not None, "drawing from several shards, or for several ranks, takes a random generator"
        positions = stratified_positions(batch_size, rank, num_ranks, rng)
        for _ in self.shards:
            masses = self._masses()
            shards, fractions = locate(positions, masses)
            wanted = {int(shard): (fractions[shards == shard],) for shard in np.unique(shards)}
            parts = self._ask(wanted, "sample_at")
            if parts.keys() == wanted.keys():
                return join(list(parts.items()), masses)
        raise PeerLost(self.complaint)

    def update_priorities(self, sampled: SampledSequences, priorities: np.ndarray) -> None:
        for shard in np.unique(sampled.shards):
            of_shard, port = sampled.shards == shard, self._port(int(shard))
            if port is None:
                continue
            # Not waited for at once: the learner would idle. Answers are kept so that errors surface.
            arguments = (sampled.slots[of_shard], sampled.keys[of_shard], priorities[of_shard])
            try:
                _UNCONFIRMED.append((int(shard), port.begin("update_priorities", *arguments)))
            except PeerLost as error:
                self.lost[int(shard)] = str(error)
        while len(_UNCONFIRMED) > MAX_UNCONFIRMED * len(self.shards):
            shard, answer = _UNCONFIRMED.popleft()
            try:
                answer()
            except PeerLost as error:
                self.lost[shard] = str(error)

    @property
    def complaint(self) -> str:
        """Which shards were lost, in a sentence; empty if none was."""
        return "; ".join(f"replay shard {shard}: {why}" for shard, why in sorted(self.lost.items()))

    def _port(self, shard: int) -> ShardPort | None:
        # Sequences drawn before a resume or a replacement may name shards that are gone.
        return self.shards[shard] if shard < len(self.shards) and shard not in self.lost else None

    def _masses(self) -> np.ndarray:
        """Priority mass of each shard [S], 0 for those that do not answer; PeerLost if there is nothing to draw."""
        if len(self.shards) == 1:
            masses = np.array([float(self._port(0) is not None)])
        else:
            answers = self._ask(dict.fromkeys(range(len(self.shards)), ()), "mass")
            masses = np.array([answers.get(shard, 0.0) for shard in range(len(self.shards))])
        if not masses.sum() > 0:
            raise PeerLost(self.complaint or "no replay shard holds a sequence")
        return masses

    def _ask(self, calls: dict[int, tuple], method: str) -> dict[int, Any]:
        """Answers by shard, of those that answered; all are asked before any is waited for."""
        begun: dict[int, Answer] = {}
        answers = {}
        for shard, arguments in calls.items():
            port = self._port(shard)
            if port is None:
                continue
            try:
                begun[shard] = port.begin(method, *arguments)
            except PeerLost as error:
                self.lost[shard] = str(error)
        for shard, answer in begun.items():
            try:
                answers[shard] = answer()
            except PeerLost as error:
                self.lost[shard] = str(error)
        return answers


_UNCONFIRMED: deque[tuple[int, Answer]] = deque()


class ReplayShard:
    """Shard ``index`` of ``num_shards``: a `PrioritizedReplay` of an equal part of all limits.

    Filled from and drained into joined buffers, its own file in each checkpoint.
    """

    def __init__(
        self, config: ReplayConfig, seed: int, index: int, num_shards: int, load_from: str | None, life: int = 0
    ) -> None:
        require(0 <= index < num_shards, f"shard {index} of {num_shards}")
        self.index, self.num_shards = index, num_shards
        self._replay = PrioritizedReplay(shard_config(config, num_shards), seed + index, life)
        if load_from is not None:
            load_share(self._replay, Path(load_from), index, num_shards, exact=False)

    def add(
        self, joined: np.ndarray, sizes: np.ndarray, priorities: np.ndarray, new_steps: np.ndarray
    ) -> dict[str, float]:
        # Copies: views would pin the message in the object store for as long as the sequences live.
        ends = np.cumsum(sizes)
        blobs = [joined[end - size : end].tobytes() for end, size in zip(ends, sizes, strict=True)]
        self._replay.add(blobs, priorities, new_steps)
        return self.stats()

    def mass(self) -> float:
        return self._replay.mass

    def sample(self, batch_size: int) -> SampledSequences:
        return self._replay.sample(batch_size)

    def sample_at(self, fractions: np.ndarray) -> SampledSequences:
        return self._replay.sample_at(fractions)

    def update_priorities(self, slots: np.ndarray, keys: np.ndarray, priorities: np.ndarray) -> None:
        self._replay.update_priorities(slots, keys, priorities)

    def priorities(self) -> np.ndarray:
        return self._replay.priorities()

    def stats(self) -> dict[str, float]:
        from cluster.runtime.services import resident_bytes

        return self._replay.stats() | {"resident_bytes": float(resident_bytes())}

    def save(self, directory: str, gently: bool = False) -> dict[str, Written]:
        return self._replay.save(Path(directory), f"replay-{self.index}", gently)


def shard_config(config: ReplayConfig, num_shards: int) -> ReplayConfig:
    """The limits of one of ``num_shards`` equal shards."""
    return dataclasses.replace(
        config, capacity_steps=-(-config.capacity_steps // num_shards), max_gb=config.max_gb / num_shards
    )


class ShardStatistics:
    """What the shards last said of themselves, and the figures of the whole. Owned by the supervisor."""

    MEANS = ("fill_steps", "fill_bytes")

    def __init__(self, num_shards: int) -> None:
        self.latest: list[dict[str, float]] = [{} for _ in range(num_shards)]

    def note(self, shard: int, stats: dict[str, float]) -> dict[str, float]:
        """Take in one shard's `stats`; returns those of all together."""
        self.latest[shard] = stats
        return self.combined()

    def forget(self, shard: int) -> None:
        """The shard was lost: it counts as empty until it speaks again."""
        self.latest[shard] = {}

    @property
    def sequences(self) -> int:
        return int(sum(stats.get("sequences", 0) for stats in self.latest))

    def combined(self) -> dict[str, float]:
        """Sums over shards; fills are means, and priorities those of all sequences."""
        known = [stats for stats in self.latest if stats]
        if len(known) == 1 and len(self.latest) == 1:
            return dict(known[0])
        whole = {name: sum(stats.get(name, 0.0) for stats in known) for name in known[0]}
        for name in self.MEANS:
            whole[name] /= len(self.latest)
        held = max(whole["sequences"], 1.0)
        whole["priority_mean"] = sum(stats["priority_mean"] * stats["sequences"] for stats in known) / held
        whole["priority_max"] = max(stats["priority_max"] for stats in known)
        return whole
