"""Sums over leaves in a binary tree: draws an index in proportion to its value in O(log capacity).

Schaul et al. 2016 (prioritized experience replay), appendix B.2.1. Every
method takes arrays, so a batch of 64 costs one descent.
"""

from __future__ import annotations

import numpy as np


class SumTree:
    """Values >= 0 of ``capacity`` leaves and all their partial sums (float64); not thread-safe.

    Node 1 is the root and node i has the children 2i and 2i+1. A parent is always *recomputed* from its
    children, never adjusted by a difference, so rounding errors do not build up and equal leaves mean equal trees.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("a sum tree needs a capacity of at least 1")
        self.capacity = capacity
        self._num_leaves = 1 << (capacity - 1).bit_length()
        self._nodes = np.zeros(2 * self._num_leaves, np.float64)

    @property
    def total(self) -> float:
        """Sum of all leaves."""
        return float(self._nodes[1])

    def get(self, indices: np.ndarray) -> np.ndarray:
        """Values of the leaves ``indices``, float64 [n]."""
        return self._nodes[self._checked(indices) + self._num_leaves]

    def set(self, indices: np.ndarray, values: np.ndarray) -> None:
        """Give the leaves ``indices`` [n] the finite ``values`` >= 0 [n]; of a repeated index the last counts."""
        nodes = self._checked(indices) + self._num_leaves
        values = np.asarray(values, np.float64)
        if values.shape != nodes.shape or not np.all(np.isfinite(values) & (values >= 0)):
            raise ValueError("a sum tree takes one finite value >= 0 per index")
        self._nodes[nodes] = values
        for _ in range(self._num_leaves.bit_length() - 1):
            nodes = nodes >> 1
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def find(self, prefix_sums: np.ndarray) -> np.ndarray:
        """Leaf int64 [n] in which each prefix sum in [0, total) falls; never one whose value is 0."""
        remaining = np.array(prefix_sums, np.float64)
        if not np.all((remaining >= 0) & (remaining < self.total)):
            raise ValueError("prefix sums must lie in [0, total)")
        nodes = np.ones(remaining.shape, np.int64)
        for _ in range(self._num_leaves.bit_length() - 1):
            left, right = self._nodes[2 * nodes], self._nodes[2 * nodes + 1]
            # Rounding may leave `remaining` at or beyond the node's sum: an empty right half is never entered.
            go_right = (remaining >= left) & (right > 0)
            remaining -= np.where(go_right, left, 0.0)
            nodes = 2 * nodes + go_right
        return nodes - self._num_leaves

    def grow(self, capacity: int) -> None:
        """Raise the capacity, keeping all values; new leaves are 0."""
        if capacity < self.capacity:
            raise ValueError("a sum tree cannot shrink")
        grown = SumTree(capacity)
        grown.set(np.arange(self.capacity), self.get(np.arange(self.capacity)))
        self.capacity, self._num_leaves, self._nodes = grown.capacity, grown._num_leaves, grown._nodes

    def check_valid(self) -> None:
        """Raise AssertionError unless every node is the sum of its children and every unused leaf is 0."""
        parents, children = self._nodes[1 : self._num_leaves], self._nodes[2:].reshape(-1, 2)
        if not np.array_equal(parents, children[:, 0] + children[:, 1]):
            raise AssertionError("a node is not the sum of its children")
        if np.any(self._nodes < 0) or np.any(self._nodes[self._num_leaves + self.capacity :] != 0):
            raise AssertionError("a leaf is negative, or one beyond the capacity is not 0")

    def _checked(self, indices: np.ndarray) -> np.ndarray:
        indices = np.asarray(indices, np.int64)
        if np.any((indices < 0) | (indices >= self.capacity)):
            raise IndexError(f"sum tree index outside 0..{self.capacity - 1}")
        return indices
