"""What a controlled experiment is: variants of a training, each with several seeds, and what came out of the runs.

The modules beside this one hold one experiment each and hand it to `results/command.py`, which has the runs made
(`trainer.py`) and writes the outcome (`record.py`).
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.commands.report.charts import FRAMES, Panel, draw_curves, draw_shares, save_panels
from cluster.commands.report.statistics import final_value, thin
from cluster.telemetry.metrics import MetricSeries, read_metrics, series_by_tag

RunKey = tuple[str, int]
"""A run by the name of its variant and its seed."""
Metrics = Mapping[str, MetricSeries]

MAX_POINTS = 60
"""Of one series in curves.csv, from which its final value is taken: it is the same when only that file is left."""
FINISHED = "finished.json"
"""Written into a run's folder once it has reached its last frame: its arguments, code and duration."""
TRAINING_CODE = ("agent57", "replay", "actors", "learner", "cluster", "launch.py")
EXAMPLE_CURVES = "curves.csv"
"""Written by the trainings of examples/ at their end: tag, step, value."""
SMALL_NETWORKS = (
    *("--network.torso-size", "64", "--network.lstm-size", "64", "--network.head-size", "64"),
    *("--learner.learning-rate", "1e-3", "--learner.target-period", "20", "--cluster.lanes-per-worker", "64"),
)
"""Flags for gridworlds, where small networks that make many updates win."""


def length(frames: int, evaluations: int) -> tuple[str, ...]:
    """Flags for a run of so many frames with so many evaluations."""
    return "--max-env-frames", str(frames), "--evaluation.period-env-frames", str(frames // evaluations)


@dataclass(frozen=True)
class Variant:
    """One cell of the comparison: what it is called and the flags that make it different."""

    name: str
    flags: tuple[str, ...] = ()
    script: str = "launch.py"
    """What trains: launch.py, or one of examples/, which gets no flags but the variant's own."""
    quick_flags: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The name as part of a folder's name."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-")


@dataclass(frozen=True)
class Experiment:
    """What is compared, on which environment, and how it is shown.

    Of two equal flags the later counts: a variant's override ``base_flags``, ``quick_flags`` override both.
    """

    name: str
    """Folder of the results, and the module's name."""
    title: str
    variants: tuple[Variant, ...]
    curve_tags: tuple[str, ...]
    """Metrics that go into curves.csv."""
    draw: Callable[[Outcome, Path], None]
    """Draws the figures of an outcome into a folder; variants may lack runs."""
    env: str = ""
    base_flags: tuple[str, ...] = ()
    quick_flags: tuple[str, ...] = ()
    final_tag: str = "evaluation/return"
    """The metric whose final value summary.csv compares."""
    seeds: int = 3
    first_seed: int = 0
    preset: str = "small"
    keep_checkpoints: bool = False
    """Keep them for `draw`; they hold the replay and are large."""
    whole_machine: bool = False
    """Each training is given all cores, through Ray, and none runs beside it: where wall-clock time is what counts."""
    code: tuple[str, ...] = TRAINING_CODE
    """Folders and files that trainings consist of: a run is made again when they change."""

    def __post_init__(self) -> None:
        if len({variant.slug for variant in self.variants}) < len(self.variants):
            raise ValueError(f"two variants of {self.name} would share a folder: {[v.name for v in self.variants]}")


@dataclass(frozen=True)
class Run:
    """One training to be made, or made: a variant with a seed."""

    variant: Variant
    seed: int
    folder: Path
    arguments: tuple[str, ...]
    """A script of this repository and its arguments."""

    @property
    def name(self) -> str:
        return run_name(self.key)

    @property
    def key(self) -> RunKey:
        return self.variant.name, self.seed

    def finished(self) -> dict[str, Any] | None:
        """What is known of the run if it was finished with these arguments, else None."""
        try:
            record = json.loads((self.folder / FINISHED).read_text())
        except (OSError, ValueError):
            return None
        return record if record.get("arguments") == list(self.arguments) else None


def run_name(key: RunKey) -> str:
    """What a run is called in messages, by --only and in run.json."""
    variant, seed = key
    return f"{variant}, seed {seed}"


@dataclass(frozen=True)
class Earlier:
    """Runs as an earlier outcome's curves.csv, config.json and run.json describe them; none by default."""

    metrics: dict[RunKey, Metrics] = field(default_factory=dict)
    """Of each run, thinned as in curves.csv."""
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of each variant, with keys such as "family.beta_max"."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """Contents of run.json, one per machine or command, without the runs that do not count any more."""
    other_flags: list[str] = field(default_factory=list)
    """Variants left out because the experiment trains them with other flags, or judges them by another rule, today."""


class Outcome:
    """The metrics of an experiment's finished runs: of ``runs``, and of ``earlier`` ones that have no folder here."""

    def __init__(self, experiment: Experiment, runs: Sequence[Run], earlier: Earlier | None = None) -> None:
        self.experiment, self.runs, self.earlier = experiment, list(runs), earlier or Earlier()
        metrics = {**self.earlier.metrics, **{run.key: read_run(run.folder) for run in self.runs}}
        order = [variant.name for variant in experiment.variants]
        self.metrics = {key: metrics[key] for key in sorted(metrics, key=lambda key: (key[1], order.index(key[0])))}
        """Of each run, seed by seed."""

    def series(self, variant: str, tag: str) -> list[MetricSeries]:
        """``tag`` of each seed of ``variant`` that logged it."""
        return [of_run[tag] for (name, _), of_run in self.metrics.items() if name == variant and tag in of_run]

    def panel(self, tag: str, ylabel: str, xlabel: str = FRAMES, names: Sequence[str] | None = None) -> Panel:
        """Curves of ``tag``, one for each variant, or for those of the names."""
        curves = {name: self.series(name, tag) for name in names or [one.name for one in self.experiment.variants]}
        return lambda axis: draw_curves(axis, curves, ylabel, xlabel)

    def shares(self, variant: str, policies: Sequence[str], ylabel: str) -> Panel:
        """How the episodes of ``variant`` are shared among its policies, by their names."""
        arms = {name: self.series(variant, f"bandit_share/{arm:02d}") for arm, name in enumerate(policies)}
        return lambda axis: draw_shares(axis, arms, ylabel)

    def final_values(self, variant: str) -> list[float]:
        """`final_value` of the experiment's final_tag, one per seed of ``variant``."""
        return [final_value(thin(series, MAX_POINTS)) for series in self.series(variant, self.experiment.final_tag)]


def draws_score_and_return(title: str) -> Callable[[Outcome, Path], None]:
    """A `Experiment.draw` that writes curves.png: greedy score and training return at equal frames."""

    def draw(outcome: Outcome, folder: Path) -> None:
        panels = [
            outcome.panel("evaluation/return", "greedy score"),
            outcome.panel("return_per_epsilon/low", "return of the lanes with small epsilon"),
        ]
        save_panels(folder / "curves.png", title, panels, width=12.0)

    return draw


def read_run(folder: Path) -> Metrics:
    """Every metric of a run; "env_frames" stand for what an example counts."""
    if not (folder / EXAMPLE_CURVES).exists():
        return read_metrics(folder)
    with (folder / EXAMPLE_CURVES).open(newline="") as file:
        rows = csv.DictReader(file)
        return series_by_tag((row["tag"], int(row["step"]), 0.0, float(row["value"])) for row in rows)


def plan(experiment: Experiment, options: argparse.Namespace, root: Path, folder: Path) -> list[Run]:
    """Every run of the experiment, seed by seed; ``folder`` is where their folders go, relative to ``root``."""
    runs = []
    for seed in range(experiment.first_seed, experiment.first_seed + options.seeds):
        for variant in experiment.variants:
            run_dir = folder / f"{variant.slug}-{seed}"
            arguments = training_arguments(experiment, variant, seed, run_dir)
            arguments += (*experiment.quick_flags, *variant.quick_flags) if options.quick else ()
            runs.append(Run(variant, seed, root / run_dir, tuple(arguments)))
    return runs


def training_arguments(experiment: Experiment, variant: Variant, seed: int, run_dir: Path) -> list[str]:
    """Script and arguments of one run of its full length."""
    arguments = [variant.script]
    if variant.script == "launch.py":
        arguments += ["train", *(() if experiment.whole_machine else ("--serial",))]
        arguments += ["--preset", experiment.preset, "--env", experiment.env]
    return [*arguments, "--seed", str(seed), "--run-dir", str(run_dir), *experiment.base_flags, *variant.flags]
