"""How often each policy was played over the whole run, in a bounded number of time bins: the arm heat map's data.

Owned by `telemetry.py`; `pictures.py` draws it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MAX_BINS = 120
FIRST_WIDTH = 1000


class ArmHistory:
    """Episodes per policy and time bin of ``width`` environment steps, which doubles whenever the bins run out."""

    def __init__(self, num_policies: int, max_bins: int = MAX_BINS, width: int = FIRST_WIDTH) -> None:
        if max_bins < 2 or max_bins % 2:
            raise ValueError("max_bins must be even")
        self.num_policies, self.max_bins, self.width = num_policies, max_bins, width
        self._counts = np.zeros((max_bins, num_policies), np.int64)
        self._bins = 0

    def add(self, arm: int, env_steps: int) -> None:
        """Count an episode of policy ``arm`` that ended after ``env_steps`` steps of the run."""
        while env_steps >= self.max_bins * self.width:
            merged = self._counts.reshape(-1, 2, self.num_policies).sum(1)
            self._counts = np.concatenate([merged, np.zeros_like(merged)])
            self._bins = (self._bins + 1) // 2
            self.width *= 2
        place = env_steps // self.width
        self._counts[place, arm] += 1
        self._bins = max(self._bins, place + 1)

    def shares(self) -> np.ndarray:
        """Share of each policy in each bin, [N, bins]; NaN where a bin holds no episode."""
        counts = self._counts[: self._bins].T.astype(np.float64)
        totals = counts.sum(0)
        return np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self._counts[: self._bins].copy(), "width": self.width}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._bins, self.width = len(state["counts"]), state["width"]
        self._counts[: self._bins] = state["counts"]
