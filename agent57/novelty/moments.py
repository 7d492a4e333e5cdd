"""Running mean and variance of numbers; `lifelong.py` keeps those of RND errors."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class RunningMoments:
    """Mean and variance of numbers that came in batches; Python's floats, since numpy is slow with single numbers."""

    mean: float = 0.0
    variance: float = 0.0

    @property
    def std(self) -> float:
        return math.sqrt(self.variance)

    def add(self, mean: float, variance: float, weight: float) -> None:
        """Take in a batch with this ``mean`` and ``variance``, which now make up a share ``weight`` in (0, 1]."""
        shift = mean - self.mean
        # Chan's parallel formula with the old and new parts weighted (1 - w) and w.
        self.variance = (1 - weight) * (self.variance + weight * shift**2) + weight * variance
        self.mean += weight * shift
