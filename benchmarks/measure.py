"""Timing and reporting shared by the benchmark scripts: medians over repeats, figures as ratios to a limit."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Figure:
    """One row: a measured ``value``, the ``limit`` measured in the same run, their ratio and its target."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    ratio: float | None = None
    target: str = ""


def median_seconds(call: Callable[[], object], repeats: int, warm_up: int = 1) -> float:
    """Median wall time of ``call`` over ``repeats`` calls, after ``warm_up`` more."""
    for _ in range(warm_up):
        call()
    return alternating_medians([call], repeats)[0]


def alternating_medians(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median wall time of each call, made in turn ``repeats`` times, so that a noisy machine disturbs all alike."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, record in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            record.append(time.perf_counter() - start)
    return [statistics.median(record) for record in times]


def report(figures: list[Figure], as_json: bool) -> None:
    """Print the figures as a table, or as a JSON list."""
    if as_json:
        print(json.dumps([asdict(figure) for figure in figures], indent=2))
        return
    width = max(48, *(len(figure.name) + 2 for figure in figures))
    for figure in figures:
        limit = "" if figure.limit is None else f"limit {figure.limit:,.4g}"
        ratio = "" if figure.ratio is None else f"ratio {figure.ratio:.2f}"
        print(f"{figure.name:<{width}}{figure.value:>12,.4g} {figure.unit:<20}{limit:<18}{ratio:<12}{figure.target}")
