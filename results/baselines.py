"""Trains every baseline of `examples/` with three seeds, one after another, and writes the outcome.

    python -m results.baselines [--plot-only]

Finished trainings are kept in ``runs/results/baselines`` and not repeated; delete the folder to train anew. What comes
out of them is written to ``results/baselines``: curves.csv, summary.csv, run.json and the figures. Thresholds are those
of `tests/examples`. Needs matplotlib (``pip install -e ".[results]"``).
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.telemetry.metrics import MetricSeries
from results.plots import COLOURS, save_panels, thin

ROOT = Path(__file__).resolve().parent.parent
RUNS, RESULTS = ROOT / "runs" / "results" / "baselines", ROOT / "results" / "baselines"
SEEDS = (1, 2, 3)
MAX_POINTS = 150
"""Of one series in curves.csv."""
TAGS = ("train/return", "eval/return", "policy/mean", "policy/std")
PACKAGES = ("torch", "numpy", "gymnasium", "matplotlib")
SHORT_WINDOW = 100
"""Episodes: CartPole's training return is shown and judged as the mean of so many."""

Series = dict[str, MetricSeries]


@dataclass(frozen=True)
class Baseline:
    """One command, to be given with each seed."""

    name: str
    command: str

    def run_dir(self, seed: int) -> Path:
        return RUNS / f"{self.name}-seed{seed}"


CARTPOLE = "examples/reinforce_cartpole.py --policy"
BASELINES = (
    Baseline("one-shot", "examples/gaussian_policy_gradient.py"),
    Baseline("softmax", f"{CARTPOLE} softmax"),
    Baseline("sigmoid", f"{CARTPOLE} sigmoid"),
    Baseline("ddpg", "examples/ddpg_pendulum.py"),
    Baseline("softmax-no-baseline", f"{CARTPOLE} softmax --baseline none"),
    Baseline("sigmoid-no-baseline", f"{CARTPOLE} sigmoid --baseline none"),
    Baseline("softmax-fast", f"{CARTPOLE} softmax --learning-rate 2"),
    Baseline("softmax-fast-no-baseline", f"{CARTPOLE} softmax --learning-rate 2 --baseline none"),
    Baseline(
        "gaussian-pendulum",
        "examples/gaussian_policy_gradient.py --env Pendulum-v1 --hidden 32 32 --learning-rate 3e-3 --updates 300",
    ),
)


def train(baseline: Baseline, seed: int) -> None:
    """Run the command in a folder of its own, unless it was finished before; its output goes to log.txt beside it."""
    run_dir = baseline.run_dir(seed)
    if (run_dir / "curves.csv").exists():
        return
    if run_dir.exists():
        raise SystemExit(f"{run_dir} holds an unfinished training: delete it")
    RUNS.mkdir(parents=True, exist_ok=True)
    print(f"{baseline.name}, seed {seed}", flush=True)
    with (RUNS / f"{run_dir.name}.log").open("w") as log:
        command = [sys.executable, *baseline.command.split(), "--seed", str(seed), "--run-dir", str(run_dir)]
        subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=True)


def read(baseline: Baseline, seed: int) -> Series:
    """Tag -> series of one finished training; "env_frames" stand for what the example counts."""
    points: dict[str, list[tuple[int, float]]] = {}
    with Path(baseline.run_dir(seed) / "curves.csv").open() as file:
        for row in csv.DictReader(file):
            points.setdefault(row["tag"], []).append((int(row["step"]), float(row["value"])))
    return {
        tag: MetricSeries(np.array([s for s, _ in pairs]), np.zeros(len(pairs)), np.array([v for _, v in pairs]))
        for tag, pairs in points.items()
    }


def summary_row(baseline: Baseline, seed: int, series: Series) -> dict[str, str | int]:
    """Where training ended and what the policy was worth there."""
    greedy, trained = series["eval/return"], series["train/return"]
    row: dict[str, str | int] = {
        "baseline": baseline.name,
        "seed": seed,
        "trained": int(greedy.env_frames[-1]),
        "greedy_return": f"{greedy.values[-1]:.6g}",
    }
    if "cartpole" in baseline.command:
        row["train_return"] = f"{trained.values[-SHORT_WINDOW:].mean():.6g}"
    if "ddpg" in baseline.command:
        above = np.flatnonzero(greedy.values > -200)
        row["first_above_-200"] = int(greedy.env_frames[above[0]]) if len(above) else "never"
    if "policy/mean" in series:
        row["mean"], row["std"] = (f"{series[tag].values[-1]:.4f}" for tag in ("policy/mean", "policy/std"))
    return row


def write_tables(outcomes: dict[tuple[str, int], Series]) -> None:
    by_name = {baseline.name: baseline for baseline in BASELINES}
    with (RESULTS / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["baseline", "seed", "tag", "step", "value"])
        for (name, seed), series in outcomes.items():
            for tag in TAGS:
                if tag in series:
                    kept = thin(series[tag], MAX_POINTS)
                    for step, value in zip(kept.env_frames, kept.values, strict=True):
                        writer.writerow([name, seed, tag, int(step), f"{value:.5g}"])
    columns = ["baseline", "seed", "trained", "greedy_return", "train_return", "first_above_-200", "mean", "std"]
    with (RESULTS / "summary.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, columns, restval="")
        table.writeheader()
        table.writerows(summary_row(by_name[name], seed, series) for (name, seed), series in outcomes.items())
    cpu = next(iter(re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())), platform.machine())
    commands = {baseline.name: f"python {baseline.command} --seed SEED" for baseline in BASELINES}
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    run = {
        "command": "python -m results.baselines",
        "commands": commands,
        "seeds": SEEDS,
        "cpu": cpu,
        "versions": {"python": platform.python_version(), **versions},
    }
    (RESULTS / "run.json").write_text(json.dumps(run, indent=2) + "\n")


# Figures


def moving_mean(series: MetricSeries, window: int = SHORT_WINDOW) -> MetricSeries:
    """Mean of the last ``window`` values, fewer at the start."""
    sums = np.cumsum(np.insert(series.values, 0, 0.0))
    ends = np.arange(1, len(series.values) + 1)
    starts = np.maximum(ends - window, 0)
    return MetricSeries(series.env_frames, series.minutes, (sums[ends] - sums[starts]) / (ends - starts))


def draw(axis, outcomes, labels, tag, xlabel, ylabel, smooth=False):  # type: ignore[no-untyped-def]
    """A line per finished seed in the colour of its baseline: three are few enough to be seen one by one."""
    for colour, (name, label) in zip(COLOURS, labels.items(), strict=False):
        for seed in SEEDS:
            if (name, seed) in outcomes:
                series = outcomes[name, seed][tag]
                series = thin(moving_mean(series) if smooth else series, MAX_POINTS)
                # A colour alone does not tell curves apart when they lie upon each other.
                style = "--" if "no-baseline" in name else "-"
                axis.plot(series.env_frames, series.values, style, color=colour, label=label)
                label = None
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, loc="lower right")


def draw_one_shot(axis, outcomes) -> None:  # type: ignore[no-untyped-def]
    """Mean and deviation of the policy over the updates, a band per seed; the reward is full in the grey one."""
    axis.axhspan(3.75, 4.25, color="grey", alpha=0.35, linewidth=0, label="full reward")
    for colour, seed in zip(COLOURS, SEEDS, strict=False):
        if ("one-shot", seed) in outcomes:
            mean, std = (outcomes["one-shot", seed][tag] for tag in ("policy/mean", "policy/std"))
            axis.plot(mean.env_frames, mean.values, color=colour, label=f"mean +- std, seed {seed}")
            low, high = mean.values - std.values, mean.values + std.values
            axis.fill_between(mean.env_frames, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.set(xlabel="updates of 16 actions", ylabel="action")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")


def write_figures(outcomes: dict[tuple[str, int], Series]) -> None:
    slow = {
        "softmax": "softmax, value baseline",
        "sigmoid": "sigmoid, value baseline",
        "softmax-no-baseline": "softmax, no baseline",
        "sigmoid-no-baseline": "sigmoid, no baseline",
    }
    fast = {"softmax-fast": "value baseline", "softmax-fast-no-baseline": "no baseline"}
    recent = f"training return, mean of {SHORT_WINDOW} episodes"
    save_panels(
        RESULTS / "cartpole.png",
        "REINFORCE on CartPole-v1, a line per seed; learning rate 0.5 (left) and 2 (right, softmax)",
        [
            lambda axis: draw(axis, outcomes, slow, "train/return", "episodes", recent, smooth=True),
            lambda axis: draw(axis, outcomes, fast, "train/return", "episodes", recent, smooth=True),
        ],
    )
    panels = {
        "one-shot": lambda axis: draw_one_shot(axis, outcomes),
        "ddpg": lambda axis: draw(
            axis, outcomes, {"ddpg": "DDPG"}, "eval/return", "environment steps", "greedy return, Pendulum-v1"
        ),
        "gaussian-pendulum": lambda axis: draw(
            axis,
            outcomes,
            {"gaussian-pendulum": "REINFORCE"},
            "eval/return",
            "updates of 3 200 environment steps",
            "greedy return, Pendulum-v1",
        ),
    }
    finished = {name for name, _ in outcomes}
    save_panels(
        RESULTS / "continuous.png",
        "Continuous actions, a line per seed: one-shot game (left) and Pendulum-v1",
        [panel for name, panel in panels.items() if name in finished] or [lambda axis: axis.set_axis_off()],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot-only", action="store_true", help="train nothing: show what is finished")
    options = parser.parse_args()
    if not options.plot_only:
        for baseline in BASELINES:
            for seed in SEEDS:
                train(baseline, seed)
    outcomes = {
        (baseline.name, seed): read(baseline, seed)
        for baseline in BASELINES
        for seed in SEEDS
        if (baseline.run_dir(seed) / "curves.csv").exists()
    }
    RESULTS.mkdir(exist_ok=True)
    write_tables(outcomes)
    write_figures(outcomes)


if __name__ == "__main__":
    main()
