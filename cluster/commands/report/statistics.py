"""Statistics over seeds: curves on a common grid, final values, interquartile means, bootstrap intervals.

Seeds are the unit of repetition: an interval says how a mean would vary with other seeds, not with other episodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.telemetry.metrics import MetricSeries

GRID_POINTS = 60


@dataclass(frozen=True)
class Estimate:
    """A statistic, the interval that holds the central 95 % of its bootstrap, and the values that it came from."""

    value: float
    low: float
    high: float
    points: Sequence[float] = ()


def interquartile_mean(values: np.ndarray, axis: int = 0) -> Any:
    """Mean of what is left along ``axis`` without the floor(n / 4) lowest and as many of the highest values.

    Agarwal et al. 2021 (arXiv:2108.13264): less at the mercy of one lucky seed than the mean. Below four seeds it is
    the mean.
    """
    values = np.sort(np.asarray(values, np.float64), axis=axis)
    cut = values.shape[axis] // 4
    return values.take(range(cut, values.shape[axis] - cut), axis=axis).mean(axis)


def bootstrap_interval(
    values: np.ndarray, statistic: Callable[..., Any] = np.mean, confidence: float = 0.95, resamples: int = 10_000
) -> tuple[Any, Any]:
    """(low, high): percentile bootstrap interval of ``statistic`` over axis 0 of ``values`` [seeds, ...].

    The seeds are drawn with replacement, as many as there are, ``resamples`` times; the interval holds the central
    ``confidence`` of the statistics. One seed has the interval of its value. The draws are the same at every call.
    """
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(0)
    drawn = values[rng.integers(len(values), size=(resamples, len(values)))]
    tail = (1 - confidence) / 2
    # An outcome of the resampling, never something between two of them.
    low, high = np.quantile(statistic(drawn, axis=1), [tail, 1 - tail], axis=0, method="inverted_cdf")
    return low, high


def estimate_mean(values: Sequence[float] | np.ndarray) -> Estimate:
    """The mean of some seeds' values; one seed has equal ends."""
    low, high = bootstrap_interval(np.asarray(values))
    return Estimate(float(np.mean(values)), float(low), float(high), list(values))


def final_value(series: MetricSeries, share: float = 0.2) -> float:
    """Mean of the last ``share`` of the points, at least one; NaN if there are none."""
    values = series.values[np.isfinite(series.values)]
    return float(values[-max(1, math.ceil(share * len(values))) :].mean()) if len(values) else math.nan


def thin(series: MetricSeries, max_points: int) -> MetricSeries:
    """At most ``max_points`` points: means over equal ranges of env_frames; what is not finite is left out."""
    finite = np.isfinite(series.values)
    columns = [series.env_frames[finite].astype(np.float64), series.minutes[finite], series.values[finite]]
    frames = columns[0]
    if len(frames) > max_points:
        edges = np.linspace(frames[0], frames[-1], max_points + 1)[1:-1]
        # Empty ranges vanish: the bins are numbered by rank.
        _, bins = np.unique(np.searchsorted(edges, frames, side="right"), return_inverse=True)
        counts = np.bincount(bins)
        columns = [np.bincount(bins, weights=column) / counts for column in columns]
    return MetricSeries(np.rint(columns[0]).astype(np.int64), columns[1], columns[2])


def on_common_grid(runs: Sequence[MetricSeries], points: int = GRID_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """(env_frames [points], values [runs, points]), interpolated where all runs have values; empty if nowhere."""
    runs = [run for run in (thin(run, points) for run in runs) if len(run.values)]
    start = max((run.env_frames[0] for run in runs), default=0)
    end = min((run.env_frames[-1] for run in runs), default=-1)
    if end < start:
        return np.zeros(0), np.zeros((len(runs), 0))
    grid = np.linspace(start, end, points if end > start else 1)
    return grid, np.stack([np.interp(grid, run.env_frames, run.values) for run in runs])
