"""Turns a run folder into a committed result: curves as CSV, a plot, the config, versions and command.

    python -m results.curves runs/NAME cartpole --tags evaluation/return return_per_epsilon/low

Needs matplotlib (``pip install -e ".[results]"``). Writes ``results/<name>/``.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path

import matplotlib as mpl
import numpy as np

from cluster.telemetry.metrics import MetricSeries, read_metrics

mpl.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).resolve().parent
CSV_TAGS = (
    "evaluation/return",
    "return/all",
    "return_per_epsilon/high",
    "return_per_epsilon/middle",
    "return_per_epsilon/low",
    "rate/learner_updates",
    "rate/env_frames_per_second",
    "rate/updates_per_second",
    "learner/extrinsic_loss",
    "learner/intrinsic_loss",
    "learner/extrinsic_mean_q",
    "learner/intrinsic_mean_q",
    "learner/embedding_accuracy",
    "learner/rnd_error",
    "replay/ratio",
)


def write_csv(path: Path, metrics: dict[str, MetricSeries]) -> None:
    """One row per logged value, in long form: tag, env_frames, minutes, value."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["tag", "env_frames", "minutes", "value"])
        for tag in CSV_TAGS:
            if tag in metrics:
                for frames, minutes, value in zip(*metrics[tag], strict=True):
                    writer.writerow([tag, int(frames), f"{minutes:.3f}", f"{value:.6g}"])


def plot(path: Path, metrics: dict[str, MetricSeries], tags: list[str], title: str) -> None:
    """Two panels of the same curves: against wall-clock minutes and against environment frames."""
    figure, (by_time, by_frames) = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    for tag in tags:
        series = metrics[tag]
        noisy = len(series.values) > 60
        values = _smooth(series.values, 15) if noisy else series.values
        style = {"marker": "" if noisy else "o", "markersize": 3, "linewidth": 1.4}
        by_time.plot(series.minutes, values, label=tag, **style)
        by_frames.plot(series.env_frames / 1e6, values, label=tag, **style)
    by_time.set_xlabel("minutes")
    by_frames.set_xlabel("environment frames (millions)")
    by_time.set_ylabel("episode return")
    for axis in (by_time, by_frames):
        axis.grid(alpha=0.3)
    by_frames.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last ``window`` points."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    starts = np.maximum(np.arange(1, len(values) + 1) - window, 0)
    ends = np.arange(1, len(values) + 1)
    return (sums[ends] - sums[starts]) / (ends - starts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("name")
    parser.add_argument("--tags", nargs="+", default=["evaluation/return", "return/all"])
    parser.add_argument("--title", default=None)
    options = parser.parse_args()
    folder = RESULTS / options.name
    folder.mkdir(parents=True, exist_ok=True)
    metrics = read_metrics(options.run_dir)
    write_csv(folder / "curves.csv", metrics)
    plot(folder / "curves.png", metrics, [tag for tag in options.tags if tag in metrics], options.title or options.name)
    # The folder of the run says nothing to anybody else.
    config = json.loads((options.run_dir / "config.json").read_text()) | {"run_dir": ""}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.copy(options.run_dir / "versions.json", folder / "versions.json")


if __name__ == "__main__":
    main()
