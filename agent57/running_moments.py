"""Running mean and variance, of numbers or arrays; `intrinsic_reward.py` keeps those of RND errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


class RunningMoments:
    """Mean and variance of everything seen, element by element over arrays of one ``shape``.

    Up to ``horizon`` samples it is the plain running mean and variance; from then on each new sample weighs
    1/horizon, so old ones fade. Each element may have a horizon of its own: ``horizon`` then has that ``shape``.
    float64 numpy.
    """

    def __init__(self, shape: tuple[int, ...] = (), horizon: float | np.ndarray = float("inf")) -> None:
        self.horizon = horizon
        self.count = np.zeros(np.shape(horizon))
        self.mean = np.zeros(shape)
        self.variance = np.zeros(shape)

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self.variance)

    def update(self, samples: np.ndarray) -> None:
        """Add ``samples`` [n, *shape], but for those that hold a NaN or an infinity; n = 0 changes nothing."""
        samples = np.asarray(samples, np.float64)
        # A sum is finite where all its terms are; the terms are looked at only if it is not.
        if not math.isfinite(samples.sum()):
            samples = samples[np.isfinite(samples.reshape(len(samples), -1)).all(1)]
        n = len(samples)
        if n == 0:
            return
        weight = n / np.minimum(self.count + n, np.maximum(self.horizon, n))
        # Sums, since numpy's mean and var take several times as long over the few numbers of a step.
        mean = samples.sum(0) / n
        variance = np.square(samples - mean).sum(0) / n
        shift = mean - self.mean
        # Chan's parallel formula with the old and new parts weighted (1 - w) and w.
        self.variance = (1 - weight) * self.variance + weight * variance + weight * (1 - weight) * shift**2
        self.mean = self.mean + weight * shift
        self.count = np.minimum(self.count + n, self.horizon)

    def state_dict(self) -> dict[str, Any]:
        return {"count": np.array(self.count), "mean": self.mean.copy(), "variance": self.variance.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = np.array(state["count"], np.float64)
        self.mean = np.array(state["mean"], np.float64)
        self.variance = np.array(state["variance"], np.float64)
