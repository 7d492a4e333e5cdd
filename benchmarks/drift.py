"""Does a long run keep its pace and its memory? From the metrics of one that was made.

    python -m benchmarks.drift RUN_DIR [--json]

Rates and memory over the last five minutes against five early ones, which begin when the replay is full or, if it
never was, five minutes after learning began. Processes grow until the replay is full, and not after that.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.measure import Figure, against, report
from cluster.telemetry.metrics import MetricSeries, read_metrics

WINDOW_MINUTES = 5.0
LEAST_MINUTES = 30.0
RATES = ("rate/env_frames_per_second", "rate/updates_per_second")


def drift_figures(run_dir: Path) -> list[Figure]:
    """Rows of one run. Raises ValueError if it was shorter than half an hour."""
    metrics = read_metrics(run_dir)
    updates = metrics["rate/learner_updates"]
    begun = updates.minutes[int(np.argmax(updates.values > 0))]
    early = max(float(begun), _full_at(metrics)) + WINDOW_MINUTES
    end = float(updates.minutes[-1])
    if end - float(begun) < LEAST_MINUTES:
        raise ValueError(f"{run_dir} trained for {end - float(begun):.0f} minutes; drift shows in {LEAST_MINUTES:.0f}")
    rows = []
    for tag in (*RATES, *sorted(name for name in metrics if name.startswith("memory_mb/"))):
        first, last = _mean(metrics[tag], early), _mean(metrics[tag], end - WINDOW_MINUTES)
        unit, target = ("MB", "<= 1.05") if tag.startswith("memory_mb/") else ("1/s", ">= 0.95")
        where = f"from minute {early:.0f} to {end:.0f}"
        rows.append(against(f"long run, {tag} against early", last, unit, first, target, where))
    return rows


def _full_at(metrics: dict[str, MetricSeries]) -> float:
    """The minute from which the replay holds no more than at the end, up to a hundredth."""
    steps = metrics["replay/steps"]
    return float(steps.minutes[int(np.argmax(steps.values >= 0.99 * steps.values[-1]))])


def _mean(series: MetricSeries, begin: float) -> float:
    inside = (series.minutes >= begin) & (series.minutes < begin + WINDOW_MINUTES)
    return float(series.values[inside].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        figures = drift_figures(options.run_dir)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    report(figures, options.json)


if __name__ == "__main__":
    main()
