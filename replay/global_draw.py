"""A batch drawn from S replay shards as if they were one: where each draw falls, and the answers joined.

Put the shards' sum trees side by side under a common root and you have the tree of one big replay. A draw at a
position of the whole priority mass falls into one shard, at a position of that shard's own mass; so asking every
shard for its mass, and then each for the sequences at its positions, is *exactly* proportional prioritization over
everything stored (Schaul et al. 2016), stratified as in `PrioritizedReplay.sample`. The masses may change between
the two questions, by what was inserted or updated in those milliseconds; nothing else differs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from replay.prioritized import SampledSequences


def stratified_positions(batch_size: int, rank: int, num_ranks: int, rng: np.random.Generator) -> np.ndarray:
    """Positions in [0, 1) of the whole mass at which learner ``rank`` of ``num_ranks`` draws, rising; float64 [B / R].

    The batch of all ranks together has one draw in each of ``batch_size`` equal strata; rank r takes strata r, r + R,
    and so on. ``num_ranks`` must divide ``batch_size``.
    """
    strata = np.arange(rank, batch_size, num_ranks)
    return (strata + rng.random(len(strata))) / batch_size


def locate(positions: np.ndarray, masses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(shard int64 [n], fraction of that shard's mass in [0, 1) [n]) in which each position of the whole mass falls.

    ``masses`` [S] >= 0, not all 0; a shard of mass 0 is never drawn.
    """
    ends = np.cumsum(masses)
    prefixes = np.minimum(positions * ends[-1], np.nextafter(ends[-1], 0))
    shards = np.searchsorted(ends, prefixes, side="right")
    fractions = (prefixes - (ends - masses)[shards]) / masses[shards]
    return shards, np.clip(fractions, 0.0, np.nextafter(1.0, 0.0))


def join(parts: Sequence[tuple[int, SampledSequences]], masses: np.ndarray) -> SampledSequences:
    """One batch of the (shard, sequences) that shards answered with, in that order.

    Probabilities become those of the whole. Ages too, in expectation: while a shard received its steps, all
    together received S times as many.
    """
    whole = masses.sum()
    lengths = [np.diff(part.offsets) for _, part in parts]
    return SampledSequences(
        slots=np.concatenate([part.slots for _, part in parts]),
        keys=np.concatenate([part.keys for _, part in parts]),
        probabilities=np.concatenate([part.probabilities * (masses[shard] / whole) for shard, part in parts]),
        blob=np.concatenate([part.blob for _, part in parts]),
        offsets=np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64),
        ages=np.concatenate([part.ages for _, part in parts]) * len(masses),
        shards=np.concatenate([np.full(len(part.slots), shard, np.int64) for shard, part in parts]),
    )
