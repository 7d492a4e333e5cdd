"""Running mean and variance against numpy over everything seen."""

from __future__ import annotations

import numpy as np
import pytest

from agent57.running_moments import RunningMoments


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_pieces_give_the_moments_of_the_whole(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(60, *shape)) * 3 + np.linspace(-5, 50, 60).reshape(-1, *[1] * len(shape))
    moments = RunningMoments(shape)
    for start, end in ((0, 1), (1, 1), (1, 8), (8, 40), (40, 60)):
        moments.update(samples[start:end])
    np.testing.assert_allclose(moments.mean, samples.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, samples.var(0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, samples.std(0), rtol=1e-12)
    assert moments.count == 60
    assert moments.mean.shape == moments.std.shape == shape


def test_nothing_seen_changes_nothing() -> None:
    moments = RunningMoments((2,))
    moments.update(np.zeros((0, 2)))
    assert moments.count == 0
    moments.update(np.ones((3, 2)))
    moments.update(np.zeros((0, 2)))
    np.testing.assert_array_equal(moments.mean, [1, 1])


def test_beyond_the_horizon_each_sample_weighs_one_part_of_it() -> None:
    samples = np.random.default_rng(1).normal(size=40) + 3
    moments = RunningMoments(horizon=10)
    mean = square = 0.0
    for seen, sample in enumerate(samples, 1):
        moments.update(np.array([sample]))
        weight = 1 / min(seen, 10)
        mean += weight * (sample - mean)
        square += weight * (sample**2 - square)
        assert moments.mean == pytest.approx(mean, rel=1e-9)
        assert moments.variance == pytest.approx(square - mean**2, rel=1e-6)
        assert moments.count == min(seen, 10)


def test_old_samples_fade_and_a_batch_beyond_the_horizon_replaces_them() -> None:
    moments = RunningMoments(horizon=10)
    moments.update(np.full(10, 100.0))
    moments.update(np.full(5, 0.0))
    assert moments.mean == pytest.approx(50)
    moments.update(np.arange(20.0))
    assert moments.mean == pytest.approx(9.5)
    assert moments.variance == pytest.approx(np.arange(20.0).var())


def test_large_offsets_cost_no_digits() -> None:
    """A sum of squares would lose all of them."""
    samples = 1e8 + np.random.default_rng(2).normal(size=1000)
    moments = RunningMoments()
    for piece in np.split(samples, 10):
        moments.update(piece)
    assert moments.std == pytest.approx(samples.std(), rel=1e-6)


def test_state_continues_exactly_and_is_a_copy() -> None:
    rng = np.random.default_rng(3)
    moments, restored = RunningMoments((3,), horizon=8), RunningMoments((3,), horizon=8)
    moments.update(rng.normal(size=(5, 3)))
    state = moments.state_dict()
    restored.load_state_dict(state)
    more = rng.normal(size=(6, 3))
    moments.update(more)
    assert not np.array_equal(restored.mean, moments.mean)
    restored.update(more)
    for name in ("mean", "variance"):
        np.testing.assert_array_equal(getattr(restored, name), getattr(moments, name))
    assert restored.count == moments.count
    assert state["count"] == 5


def test_samples_that_are_not_finite_are_left_out() -> None:
    moments, clean = RunningMoments((2,)), RunningMoments((2,))
    samples = np.array([[1.0, 2.0], [np.nan, 1.0], [3.0, 5.0], [0.0, -np.inf]])
    moments.update(samples)
    moments.update(samples[1:2])
    clean.update(samples[[0, 2]])
    assert moments.state_dict().keys() == clean.state_dict().keys()
    for name, value in clean.state_dict().items():
        np.testing.assert_array_equal(moments.state_dict()[name], value)
