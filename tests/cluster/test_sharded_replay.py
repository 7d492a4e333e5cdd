"""Shards behind one port: routing, drawing while some are lost, statistics of the whole. Without Ray."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cluster.run.messages import PeerLost
from cluster.runtime.sharded_replay import (
    MAX_UNCONFIRMED,
    Answer,
    ReplayShard,
    ShardedReplay,
    ShardStatistics,
    shard_config,
)
from replay.config import ReplayConfig

CONFIG = ReplayConfig(capacity_steps=3000, max_gb=0.003, min_sequences=1)


class LocalShard:
    """A shard in this process that can be broken: ``silent`` for all methods, or one method."""

    def __init__(self, shard: ReplayShard) -> None:
        self.shard = shard
        self.silent: bool | str = False
        self.unanswered = 0

    def begin(self, method: str, *arguments: Any) -> Answer:
        self.unanswered += 1

        def answer() -> Any:
            self.unanswered -= 1
            if self.silent in (True, method):
                raise PeerLost("it is gone")
            return getattr(self.shard, method)(*arguments)

        return answer


@pytest.fixture
def shards() -> list[LocalShard]:
    return [LocalShard(ReplayShard(CONFIG, 0, index, 3, None)) for index in range(3)]


def add(port: ShardedReplay, count: int, priority: float = 1.0) -> tuple[int, dict[str, float]]:
    return port.add([b"blob"] * count, np.full(count, priority, np.float32), np.ones(count, np.int64))


def filled(shards: list[LocalShard]) -> ShardedReplay:
    for home, count in enumerate((10, 20, 30)):
        add(ShardedReplay(list(shards), home), count)
    return ShardedReplay(list(shards))


def test_new_sequences_go_home_or_to_the_next_that_answers(shards: list[LocalShard]) -> None:
    assert add(ShardedReplay(list(shards), home=1), 5)[0] == 1
    shards[1].silent = True
    port = ShardedReplay(list(shards), home=1)
    shard, stats = add(port, 7)
    assert (shard, stats["sequences"]) == (2, 7)
    assert "replay shard 1: it is gone" in port.complaint
    assert add(ShardedReplay([shards[0], None, None], home=1), 2)[0] == 0
    for port in (ShardedReplay([shards[1]], home=0), ShardedReplay([None, None], home=0)):
        with pytest.raises(PeerLost):
            add(port, 1)


def test_a_batch_comes_from_all_shards_in_proportion(shards: list[LocalShard]) -> None:
    port, rng = filled(shards), np.random.default_rng(0)
    counts = np.zeros(3)
    for _ in range(200):
        counts += np.bincount(port.sample(30, rng=rng).shards, minlength=3)
    np.testing.assert_allclose(counts / counts.sum(), [1 / 6, 2 / 6, 3 / 6], atol=0.005)


@pytest.mark.parametrize("when", [True, "mass", "sample_at"])
def test_the_others_go_on_when_a_shard_is_lost(shards: list[LocalShard], when: bool | str) -> None:
    """Lost before, at the first question, or between the two: the batch is whole, and the loss is told."""
    port, rng = filled(shards), np.random.default_rng(0)
    shards[2].silent = when
    sampled = port.sample(60, rng=rng)
    assert np.bincount(sampled.shards, minlength=3).tolist() == [20, 40, 0]
    assert list(port.lost) == [2]
    assert sampled.probabilities.sum() / 60 == pytest.approx(1 / 30)
    shards[0].silent = shards[1].silent = True
    with pytest.raises(PeerLost, match="replay shard 0"):
        port.sample(60, rng=rng)


def test_empty_shards_are_not_drawn_and_an_empty_replay_says_so(shards: list[LocalShard]) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(PeerLost, match="no replay shard holds a sequence"):
        ShardedReplay(list(shards)).sample(4, rng=rng)
    add(ShardedReplay(list(shards), home=1), 3)
    assert set(ShardedReplay(list(shards)).sample(8, rng=rng).shards) == {1}


def test_priorities_return_to_where_a_sequence_came_from(shards: list[LocalShard]) -> None:
    port, rng = filled(shards), np.random.default_rng(0)
    for _ in range(60):
        sampled = port.sample(12, rng=rng)
        port.update_priorities(sampled, np.full(12, 4.0) + sampled.shards)
        assert sum(shard.unanswered for shard in shards) <= MAX_UNCONFIRMED * 3, "updates in flight are bounded"
    for number, shard in enumerate(shards):
        assert set(shard.shard.priorities()) <= {1.0, 4.0 + number}
        assert shard.shard.priorities().max() == 4.0 + number
    # One that came from a shard which no longer exists is let go.
    sampled.shards[:] = 7
    port.update_priorities(sampled, np.full(12, 9.0))


def test_ranks_draw_the_batch_of_one_shard_together(shards: list[LocalShard]) -> None:
    port = ShardedReplay([shards[0]])
    add(port, 8)
    parts = [port.sample(8, rank, 2, np.random.default_rng(rank)) for rank in range(2)]
    # Equal priorities: each stratum is one sequence.
    keys = sorted(key for part in parts for key in part.keys.tolist())
    assert [key - keys[0] for key in keys] == list(range(8))


def test_each_shard_has_its_part_of_the_limits(shards: list[LocalShard]) -> None:
    assert shard_config(CONFIG, 1) == CONFIG
    part = shard_config(CONFIG, 3)
    assert (part.capacity_steps, part.max_gb) == (1000, 0.001)
    for _ in range(60):
        add(ShardedReplay([shards[0]]), 100)
    stats = shards[0].shard.stats()
    assert stats["bytes"] <= 1e6
    assert stats["steps"] <= 1000


def test_statistics_are_those_of_the_whole(shards: list[LocalShard]) -> None:
    statistics = ShardStatistics(3)
    for home, (count, priority) in enumerate([(10, 1.0), (30, 5.0)]):
        shard, stats = add(ShardedReplay(list(shards), home), count, priority)
        whole = statistics.note(shard, stats)
    assert statistics.sequences == whole["sequences"] == 40
    assert whole["priority_mean"] == pytest.approx((10 * 1 + 30 * 5) / 40)
    assert whole["priority_max"] == 5
    assert whole["fill_steps"] == pytest.approx(40 / 3000)
    statistics.forget(1)
    assert statistics.sequences == 10
    alone = ShardStatistics(1)
    assert alone.note(0, stats) == stats
