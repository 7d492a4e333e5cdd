"""Running mean and variance against numpy over everything that counts."""

from __future__ import annotations

import numpy as np
import pytest

from agent57.novelty.moments import RunningMoments


def add(moments: RunningMoments, samples: np.ndarray, weight: float) -> None:
    moments.add(float(samples.mean()), float(samples.var()), weight)


def test_batches_give_the_moments_of_the_whole() -> None:
    samples = np.random.default_rng(0).normal(size=60) * 3 + np.linspace(-5, 50, 60)
    moments = RunningMoments()
    for start, end in ((0, 1), (1, 8), (8, 40), (40, 60)):
        add(moments, samples[start:end], (end - start) / end)
    assert moments.mean == pytest.approx(samples.mean(), rel=1e-12)
    assert moments.variance == pytest.approx(samples.var(), rel=1e-12)
    assert moments.std == pytest.approx(samples.std(), rel=1e-12)


def test_old_samples_fade_and_a_weight_of_1_replaces_them() -> None:
    moments = RunningMoments()
    add(moments, np.full(10, 100.0), 1)
    add(moments, np.full(5, 0.0), 0.5)
    assert (moments.mean, moments.variance) == (50, 2500)
    add(moments, np.arange(20.0), 1)
    assert (moments.mean, moments.variance) == (9.5, pytest.approx(np.arange(20.0).var()))


def test_large_offsets_cost_no_digits() -> None:
    """A sum of squares would lose all of them."""
    samples = 1e8 + np.random.default_rng(2).normal(size=1000)
    moments = RunningMoments()
    for number, piece in enumerate(np.split(samples, 10), start=1):
        add(moments, piece, 1 / number)
    assert moments.std == pytest.approx(samples.std(), rel=1e-6)
