"""The sum tree against a plain array and a linear scan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.sum_tree import SumTree

# Whole numbers, whose float sums are exact, so that the linear scan agrees to the bit.
VALUES = st.one_of(st.just(0), st.integers(1, 10), st.integers(1, 2**30))


def linear_find(values: np.ndarray, prefix_sum: float) -> int:
    """First index whose cumulative sum exceeds ``prefix_sum``."""
    running = 0.0
    for index, value in enumerate(values):
        running += value
        if prefix_sum < running:
            return index
    raise AssertionError("prefix sum beyond the total")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_tree_agrees_with_an_array(data: st.DataObject) -> None:
    capacity = data.draw(st.integers(1, 20))
    tree, values = SumTree(capacity), np.zeros(capacity)
    for _ in range(data.draw(st.integers(1, 6))):
        if data.draw(st.booleans()):
            capacity += data.draw(st.integers(0, 20))
            tree.grow(capacity)
            values = np.concatenate((values, np.zeros(capacity - len(values))))
        pairs = data.draw(st.lists(st.tuples(st.integers(0, capacity - 1), VALUES), max_size=8))
        for index, value in pairs:  # one after the other: of a repeated index the last counts
            values[index] = value
        tree.set(np.array([pair[0] for pair in pairs], np.int64), np.array([pair[1] for pair in pairs], np.float64))
        tree.check_valid()
        np.testing.assert_array_equal(tree.get(np.arange(capacity)), values)
        assert tree.total == values.sum()
        if tree.total > 0:
            prefix_sums = np.array(data.draw(st.lists(st.floats(0, tree.total, exclude_max=True), min_size=1)))
            prefix_sums = np.concatenate((prefix_sums, [0.0, np.nextafter(tree.total, 0)]))
            assert tree.find(prefix_sums).tolist() == [linear_find(values, prefix) for prefix in prefix_sums]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-300, 1e300)), min_size=1, max_size=40), st.integers(0, 2**32))
def test_find_never_returns_an_empty_leaf(values: list[float], seed: int) -> None:
    """Sums of such unequal values are rounded, which must not lead into a leaf of 0."""
    tree = SumTree(len(values))
    tree.set(np.arange(len(values)), np.array(values))
    if tree.total == 0:
        return
    draws = np.random.default_rng(seed).random(50) * tree.total
    edges = np.cumsum(values)
    prefix_sums = np.concatenate((draws, edges, np.nextafter(edges, 0), [0.0]))
    found = tree.find(np.minimum(prefix_sums, np.nextafter(tree.total, 0)))
    assert np.all(tree.get(found) > 0)


def test_rounding_does_not_lead_into_an_empty_right_half() -> None:
    """Subtracting the left sum rounds what remains up to 1.5, the whole of the right node's non-empty half."""
    ulp = 2.0**-52
    tree = SumTree(4)
    tree.set(np.arange(4), np.array([1.5 * ulp, 0.0, 1.5, 0.0]))
    prefix_sum = np.nextafter(tree.total, 0)
    assert prefix_sum - 1.5 * ulp == 1.5
    assert tree.find(np.array([prefix_sum])) == 2


def test_frequencies_follow_the_values() -> None:
    values = np.array([1.0, 0.0, 3.0, 6.0])
    tree = SumTree(4)
    tree.set(np.arange(4), values)
    found = tree.find(np.random.default_rng(0).random(20_000) * tree.total)
    np.testing.assert_allclose(np.bincount(found, minlength=4) / 20_000, values / 10, atol=0.015)


def test_wrong_arguments_are_refused_and_change_nothing() -> None:
    tree = SumTree(3)
    tree.set(np.arange(3), np.array([1.0, 2.0, 3.0]))
    for index in (-1, 3):
        with pytest.raises(IndexError):
            tree.set(np.array([index]), np.ones(1))
        with pytest.raises(IndexError):
            tree.get(np.array([index]))
    for value in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            tree.set(np.array([0]), np.array([value]))
    for prefix in (-0.1, 6.0, np.nan):
        with pytest.raises(ValueError, match="prefix"):
            tree.find(np.array([prefix]))
    with pytest.raises(ValueError, match="shrink"):
        tree.grow(2)
    with pytest.raises(ValueError, match="capacity"):
        SumTree(0)
    assert tree.total == 6.0
    tree.check_valid()


def test_check_valid_notices_a_wrong_sum() -> None:
    tree = SumTree(4)
    tree.set(np.arange(4), np.ones(4))
    tree._nodes[2] += 1e-9
    with pytest.raises(AssertionError):
        tree.check_valid()
