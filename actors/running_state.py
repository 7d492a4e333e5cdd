"""Running moments of novelty (`Lanes.running_state`) for lanes other than those that gathered them."""

from __future__ import annotations

from typing import Any

import numpy as np


def for_lanes(running_state: dict[str, Any], num_lanes: int) -> dict[str, Any]:
    """``running_state`` for another number of lanes, each with the mean of the squared neighbour distances."""
    weights = np.asarray(running_state["distance_weight"], np.float64)
    sums = np.asarray(running_state["distance_sum"], np.float64)
    seen = weights > 0
    mean = float((sums[seen] / weights[seen]).mean()) if seen.any() else 0.0
    weight = float(weights[seen].mean()) if seen.any() else 0.0
    return running_state | {
        "distance_sum": np.full(num_lanes, mean * weight),
        "distance_weight": np.full(num_lanes, weight),
    }


def for_workers(running_states: dict[int, dict[str, Any]], num_workers: int, num_lanes: int) -> dict[int, dict]:
    """``running_states`` for other numbers of workers and lanes: each worker gets those of one that had some."""
    known = [
        state if len(state["distance_sum"]) == num_lanes else for_lanes(state, num_lanes)
        for _, state in sorted(running_states.items())
    ]
    return {worker: known[worker % len(known)] for worker in range(num_workers) if known}
