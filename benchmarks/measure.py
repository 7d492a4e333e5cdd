"""Timing and reporting shared by the benchmark scripts: medians over repeats, figures as ratios to a limit."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Figure:
    """One row: a measured ``value``, the ``limit`` measured in the same run, their ratio and its target.

    ``value`` None: not measured; ``where`` then says why, else where the time goes. ``target`` is of the ratio, or of
    the value where there is no ratio: ">= 0.9", "<= 20". ``comparable``: the same resource bounds value and limit, so
    that the ratio says something of the program on any machine, however busy; only such ratios are checked.
    """

    name: str
    value: float | None
    unit: str
    limit: float | None = None
    ratio: float | None = None
    target: str = ""
    where: str = ""
    comparable: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None if there is none, or nothing was measured."""
        judged = self.value if self.ratio is None else self.ratio
        if not self.target or judged is None:
            return None
        sign, bound = self.target.split()[:2]
        return {">=": judged >= float(bound), "<=": judged <= float(bound), "<": judged < float(bound)}[sign]


def against(
    name: str, value: float, unit: str, limit: float, target: str = "", where: str = "", comparable: bool = True
) -> Figure:
    """A figure whose ratio is ``value`` / ``limit``."""
    return Figure(name, value, unit, limit, value / limit, target, where, comparable)


def median_seconds(call: Callable[[], object], repeats: int, warm_up: int = 1) -> float:
    """Median wall time of ``call`` over ``repeats`` calls, after ``warm_up`` more."""
    for _ in range(warm_up):
        call()
    return alternating_medians([call], repeats)[0]


def alternating_medians(
    calls: Sequence[Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Median time of each call, made in turn ``repeats`` times, so that a noisy machine disturbs all alike.

    ``clock`` time.process_time leaves out what other processes take, which would be more of the longer call; for work
    of one core that never waits.
    """
    return [statistics.median(record) for record in alternating_times(calls, repeats, clock)]


def alternating_times(
    calls: Sequence[Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Times of each call, made in turn ``repeats`` times."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, record in zip(calls, times, strict=True):
            start = clock()
            call()
            record.append(clock() - start)
    return times


def shares(seconds: dict[str, float], total: float) -> str:
    """ "emulator 25 %, networks 60 %, ..., rest 5 %" of ``total`` seconds, the largest first."""
    parts = sorted(seconds.items(), key=lambda part: -part[1])
    parts.append(("rest", max(0.0, total - sum(seconds.values()))))
    return ", ".join(f"{name} {100 * part / total:.1f} %" for name, part in parts)


def report(figures: list[Figure], as_json: bool) -> None:
    """Print the figures as a table, or as a JSON list."""
    if as_json:
        print(json.dumps([asdict(figure) for figure in figures], indent=2))
        return
    width = max(48, *(len(figure.name) + 2 for figure in figures))
    for figure in figures:
        if figure.value is None:
            print(f"{figure.name:<{width}}not measured: {figure.where}")
            continue
        limit = "" if figure.limit is None else f"limit {figure.limit:,.4g}"
        ratio = "" if figure.ratio is None else f"ratio {figure.ratio:.2f}"
        target = {None: figure.target, True: f"{figure.target} met", False: f"{figure.target} MISSED"}[figure.met]
        line = f"{figure.name:<{width}}{figure.value:>12,.4g} {figure.unit:<20}{limit:<18}{ratio:<12}{target}"
        print(line.rstrip())
        if figure.where:
            print(f"    {figure.where}")
