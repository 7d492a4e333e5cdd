"""Shards drawn from as one replay: positions, statistics against the whole, and what comes back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.config import ReplayConfig
from replay.global_draw import join, locate, stratified_positions
from replay.prioritized import PrioritizedReplay, SampledSequences
from tests.replay.insertions import numbers

CONFIG = ReplayConfig(capacity_steps=10**6, max_gb=1.0, priority_exponent=0.9, min_sequences=1)


def shards_of(priorities: list[list[float]]) -> list[PrioritizedReplay]:
    """One shard per list; sequence i of shard s is the blob "s:i" and brings one step."""
    shards = []
    for number, values in enumerate(priorities):
        shard = PrioritizedReplay(CONFIG, seed=number)
        blobs = [f"{number}:{index}".encode() for index in range(len(values))]
        shard.add(blobs, np.array(values), np.ones(len(values), np.int64))
        shards.append(shard)
    return shards


def draw(
    shards: list[PrioritizedReplay], batch_size: int, rng: np.random.Generator, rank: int = 0, num_ranks: int = 1
) -> SampledSequences:
    masses = np.array([shard.mass for shard in shards])
    owners, fractions = locate(stratified_positions(batch_size, rank, num_ranks, rng), masses)
    parts = [(int(s), shards[s].sample_at(fractions[owners == s])) for s in np.unique(owners)]
    return join(parts, masses)


def blobs_of(sampled: SampledSequences) -> list[str]:
    whole, offsets = sampled.blob.tobytes(), sampled.offsets.tolist()
    return [whole[start:end].decode() for start, end in itertools.pairwise(offsets)]


PRIORITIES = [[1.0, 5.0, 0.5], [20.0], [], [3.0, 3.0, 3.0, 0.01]]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_frequencies_are_those_of_one_replay(num_ranks: int) -> None:
    """Chi-square of draws over shards of very unequal mass against p^0.9 / sum p^0.9 over all; and the variance
    within a batch is that of a stratified draw, below a multinomial one."""
    shards, rng = shards_of(PRIORITIES), np.random.default_rng(5)
    names = [f"{s}:{i}" for s, values in enumerate(PRIORITIES) for i in range(len(values))]
    mass = np.array([p for values in PRIORITIES for p in values]) ** 0.9
    expected = mass / mass.sum()
    rounds, batch_size = 2000, 8
    counts = np.zeros((rounds, len(names)))
    for number in range(rounds):
        for rank in range(num_ranks):
            for name in blobs_of(draw(shards, batch_size, rng, rank, num_ranks)):
                counts[number, names.index(name)] += 1
    assert np.all(counts.sum(1) == batch_size)
    total = counts.sum(0)
    chi_square = ((total - rounds * batch_size * expected) ** 2 / (rounds * batch_size * expected)).sum()
    # 7 degrees of freedom: 24.3 is exceeded once in a thousand (stratified draws stay below even that).
    assert chi_square < 24.3
    multinomial = batch_size * expected * (1 - expected)
    assert counts.var(0).sum() < 0.5 * multinomial.sum()


def test_it_is_the_draw_of_one_tree_with_all_leaves_side_by_side() -> None:
    """The same positions pick the same sequences as a single replay that holds everything in that order."""
    rng = np.random.default_rng(0)
    priorities = [rng.gamma(0.3, 10, size).tolist() for size in (300, 7, 100)]
    shards = shards_of(priorities)
    whole = PrioritizedReplay(CONFIG, seed=0)
    names = [f"{s}:{i}" for s, values in enumerate(priorities) for i in range(len(values))]
    whole.add([name.encode() for name in names], np.concatenate(priorities), np.ones(len(names), np.int64))
    masses = np.array([shard.mass for shard in shards])
    assert masses.sum() == pytest.approx(whole.mass)
    positions = stratified_positions(4096, 0, 1, rng)
    owners, fractions = locate(positions, masses)
    sharded = join([(s, shards[s].sample_at(fractions[owners == s])) for s in range(3)], masses)
    single = whole.sample_at(positions)
    agree = np.array(blobs_of(sharded)) == np.array(blobs_of(single))
    assert agree.mean() > 0.999, "only rounding at the edges may differ"
    np.testing.assert_allclose(sharded.probabilities[agree], single.probabilities[agree], rtol=1e-9)


def test_ranks_share_the_strata_of_one_batch() -> None:
    positions = [stratified_positions(12, rank, 3, np.random.default_rng(rank)) for rank in range(3)]
    strata = np.sort(np.floor(np.concatenate(positions) * 12).astype(int))
    assert strata.tolist() == list(range(12))


@given(
    st.lists(st.floats(0, 1e30) | st.just(0.0), min_size=1, max_size=6).filter(lambda masses: sum(masses) > 0),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=9),
)
def test_no_draw_falls_outside_or_into_an_empty_shard(masses: list[float], positions: list[float]) -> None:
    shards, fractions = locate(np.sort(positions), np.array(masses))
    assert np.all(np.array(masses)[shards] > 0)
    assert np.all((fractions >= 0) & (fractions < 1))
    assert np.all(np.diff(shards) >= 0)


def test_what_is_joined_names_its_shard_for_priority_updates() -> None:
    shards = shards_of([[1.0] * 50, [1.0] * 50])
    sampled = draw(shards, 32, np.random.default_rng(0))
    for column, name in enumerate(blobs_of(sampled)):
        shard = int(sampled.shards[column])
        assert name == f"{shard}:{numbers(sampled)[column]}"
        assert shards[shard].update_priorities(sampled.slots[[column]], sampled.keys[[column]], np.array([2.0])) == 1
    # Both shards received 50 steps, 100 together.
    assert np.all(sampled.ages == 2 * (50 - 1 - numbers(sampled)))
    assert set(sampled.shards) == {0, 1}
