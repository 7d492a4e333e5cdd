"""Runs a controlled experiment: every variant with several seeds, each a training of its own; then writes the outcome.

    python -m results.random_coin [--quick] [--seeds N] [--jobs N] [--only PATTERN] [--fresh] [--plot-only]

A training is ``launch.py train --serial`` on one core, so that its outcome depends on the seed alone and as many run
side by side as there are cores. Finished ones are kept in ``runs/results/<experiment>`` and not repeated while flags
and code stay the same: a stopped command goes on when it is given again. What comes out of them is written to
``results/<experiment>``: curves.csv, summary.csv, config.json, run.json and figures. ``--quick`` shows within minutes
that everything works; what it writes stays in ``runs/``. The modules beside this one hold one experiment each.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import fnmatch
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.doctor import usable_cores
from cluster.metrics import MetricSeries, read_metrics
from results.plots import bootstrap_interval, final_value, interquartile_mean, thin

ROOT = Path(__file__).resolve().parent.parent
TRAINING_CODE = ("agent57", "replay", "actors", "learner", "cluster", "launch.py")
FINISHED = "finished.json"
"""Written into a run's folder once it has reached its last frame: its arguments, code and duration."""
LOG_TAIL_LINES = 15
MAX_POINTS, MAX_ROWS = 60, 12_000
"""Of one series and of all series in curves.csv, which stays under 1 MB."""
PACKAGES = ("torch", "numpy", "gymnasium", "ale-py", "minigrid", "matplotlib")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")
"""Instructions on which the speed of training depends."""


SMALL_NETWORKS = (
    *("--network.torso-size", "64", "--network.lstm-size", "64", "--network.head-size", "64"),
    *("--learner.learning-rate", "1e-3", "--learner.target-period", "20", "--cluster.lanes-per-worker", "64"),
)
"""Flags for gridworlds: progress there follows the number of updates, so small networks that make many win."""


@dataclass(frozen=True)
class Variant:
    """One cell of the comparison: what it is called and the flags that make it different."""

    name: str
    flags: tuple[str, ...] = ()

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
    env: str
    variants: tuple[Variant, ...]
    base_flags: tuple[str, ...]
    quick_flags: tuple[str, ...]
    curve_tags: tuple[str, ...]
    """Metrics that go into curves.csv."""
    draw: Callable[[Outcome, Path], None]
    """Draws the figures of an outcome into a folder; variants may lack runs."""
    final_tag: str = "evaluation/return"
    """The metric whose final value summary.csv compares."""
    seeds: int = 3
    preset: str = "small"
    keep_checkpoints: bool = False
    """Keep them for `draw`; they hold the replay and are large."""
    whole_machine: bool = False
    """Each training is given all cores, through Ray, and none runs beside it: where wall-clock time is what counts."""

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
    """Of launch.py."""

    @property
    def name(self) -> str:
        return f"{self.variant.name}, seed {self.seed}"

    def finished(self) -> dict[str, Any] | None:
        """What is known of the run if it was finished with these arguments, else None."""
        try:
            record = json.loads((self.folder / FINISHED).read_text())
        except (OSError, ValueError):
            return None
        return record if record.get("arguments") == list(self.arguments) else None


class Outcome:
    """The metrics of an experiment's finished runs."""

    def __init__(self, experiment: Experiment, runs: Sequence[Run]) -> None:
        self.experiment, self.runs = experiment, list(runs)
        self._metrics = {run: read_metrics(run.folder) for run in self.runs}

    def series(self, variant: str, tag: str) -> list[MetricSeries]:
        """``tag`` of each seed of ``variant`` that logged it."""
        found = [self._metrics[run].get(tag) for run in self.runs if run.variant.name == variant]
        return [series for series in found if series is not None]

    def of_run(self, run: Run, tag: str) -> MetricSeries | None:
        return self._metrics[run].get(tag)

    def final_values(self, variant: str) -> list[float]:
        """`final_value` of the experiment's final_tag, one per seed of ``variant``."""
        return [final_value(series) for series in self.series(variant, self.experiment.final_tag)]


def plan(experiment: Experiment, options: argparse.Namespace, root: Path, folder: Path) -> list[Run]:
    """Every run of the experiment, seed by seed; ``folder`` is where their folders go, relative to ``root``."""
    runs = []
    for seed in range(options.seeds):
        for variant in experiment.variants:
            run_dir = folder / f"{variant.slug}-{seed}"
            arguments = ["train", *(() if experiment.whole_machine else ("--serial",))]
            arguments += ["--preset", experiment.preset, "--env", experiment.env]
            arguments += ["--seed", str(seed), "--run-dir", str(run_dir), *experiment.base_flags, *variant.flags]
            arguments += experiment.quick_flags if options.quick else ()
            runs.append(Run(variant, seed, root / run_dir, tuple(arguments)))
    return runs


class Trainer:
    """Makes runs, several at a time, each in a process of its own whose output goes to ``<run folder>.log``."""

    def __init__(self, root: Path, keep_checkpoints: bool) -> None:
        self._root, self._keep_checkpoints = root, keep_checkpoints
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._stopping = threading.Event()

    def train(self, runs: Sequence[Run], jobs: int) -> int:
        """Make every run, whatever becomes of the others; returns how many succeeded. Prints a line for each.

        Whatever interrupts it (Ctrl-C) stops the trainings under way before it goes on.
        """
        succeeded = 0
        with ThreadPoolExecutor(jobs) as pool:
            futures = {pool.submit(self._train_one, run): run for run in runs}
            try:
                for done, future in enumerate(as_completed(futures), start=1):
                    run, (success, minutes) = futures[future], future.result()
                    succeeded += success
                    state = "finished" if success else "FAILED"
                    print(f"{run.name}: {state} after {minutes:.1f} minutes, {len(runs) - done} to go", flush=True)
                    if not success:
                        print(_log_tail(run), flush=True)
            except BaseException:
                self._stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(self._processes):
                    process.terminate()
                raise
        return succeeded

    def _train_one(self, run: Run) -> tuple[bool, float]:
        """(whether the run reached its last frame, minutes of wall time)."""
        began = time.monotonic()
        # What an interrupted run or one with other flags left there cannot be continued.
        shutil.rmtree(run.folder, ignore_errors=True)
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        record = {"arguments": run.arguments, "code": code_digest(), **git_state(), "date": time.strftime("%Y-%m-%d")}
        command = [sys.executable, str(ROOT / "launch.py"), *run.arguments]
        with open(_log_path(run), "wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self._root,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            self._processes.add(process)
            if self._stopping.is_set():
                process.terminate()
            core_minutes = _wait(process)
            success = process.returncode == 0 and _reached_its_end(run.folder)
            self._processes.discard(process)
        minutes = (time.monotonic() - began) / 60
        if success:
            if not self._keep_checkpoints:
                shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
            record["minutes"] = round(minutes, 2)
            if "--serial" in run.arguments:
                # Ray's processes belong to nobody who could tell what they took.
                record["core_minutes"] = round(core_minutes, 2)
            (run.folder / FINISHED).write_text(json.dumps(record, indent=2) + "\n")
        return success, minutes


def _wait(process: subprocess.Popen[bytes]) -> float:
    """Minutes of processor time that the process and its children took, however long they had to wait for it."""
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except ChildProcessError:
        # Somebody who terminated it has asked for its state in between.
        process.wait()
        return 0.0
    process.returncode = os.waitstatus_to_exitcode(status)
    return (usage.ru_utime + usage.ru_stime) / 60


def _reached_its_end(run_dir: Path) -> bool:
    """Whether the last logged frame or minute is the last one wanted: one that a signal stops exits with 0, too."""
    try:
        config = json.loads((run_dir / "config.json").read_text())
        logged = read_metrics(run_dir).values()
    except FileNotFoundError:
        return False
    frames = max((int(series.env_frames[-1]) for series in logged), default=0)
    minutes = max((float(series.minutes[-1]) for series in logged), default=0.0)
    if config.get("max_minutes") and minutes >= config["max_minutes"] - config["log_seconds"] / 60:
        return True
    return bool(config["max_env_frames"]) and frames >= config["max_env_frames"]


def _log_path(run: Run) -> Path:
    return run.folder.with_name(run.folder.name + ".log")


def _log_tail(run: Run) -> str:
    lines = _log_path(run).read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return "\n".join(f"    | {line}" for line in lines)


def code_digest() -> str:
    """A short checksum of the code that trainings consist of, committed or not."""
    digest = hashlib.sha256()
    for name in TRAINING_CODE:
        path = ROOT / name
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(str(source.relative_to(ROOT)).encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def git_state() -> dict[str, Any]:
    """The commit, and whether the training code differs from it ("dirty"); both None outside a git checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", *TRAINING_CODE))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


# What is written


def write_outcome(outcome: Outcome, folder: Path) -> None:
    """Write curves.csv, summary.csv and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_curves(outcome, folder / "curves.csv")
    _write_summary(outcome, folder / "summary.csv")
    config = json.dumps(_configs(outcome), indent=2)
    (folder / "config.json").write_text(config + "\n")


def _write_curves(outcome: Outcome, path: Path) -> None:
    logged = [
        (run, tag, series)
        for run in outcome.runs
        for tag in outcome.experiment.curve_tags
        if (series := outcome.of_run(run, tag)) is not None
    ]
    points = max(1, min(MAX_POINTS, MAX_ROWS // max(1, len(logged))))
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "seed", "tag", "env_frames", "minutes", "value"])
        for run, tag, whole in logged:
            for frames, minutes, value in zip(*thin(whole, points), strict=True):
                writer.writerow([run.variant.name, run.seed, tag, frames, f"{minutes:.2f}", f"{value:.5g}"])


def _write_summary(outcome: Outcome, path: Path) -> None:
    """One row per variant: statistics over seeds of the final value, which is a mean over the last 20 % of points."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        columns = ["mean", "interval_low", "interval_high", "interquartile_mean", "min", "max"]
        writer.writerow(["variant", "tag", "seeds", *columns])
        for variant in outcome.experiment.variants:
            values = np.array(outcome.final_values(variant.name))
            if not len(values):
                continue
            statistics = [values.mean(), *bootstrap_interval(values), interquartile_mean(values), min(values)]
            numbers = [f"{number:.5g}" for number in (*statistics, max(values))]
            writer.writerow([variant.name, outcome.experiment.final_tag, len(values), *numbers])


def _configs(outcome: Outcome) -> dict[str, Any]:
    """What the variants' configs have in common, and for each variant the rest; keys such as "family.beta_max"."""
    configs: dict[str, dict[str, Any]] = {}
    for run in outcome.runs:
        if run.variant.name not in configs:
            # The folder and the seed say nothing about the variant.
            config = json.loads((run.folder / "config.json").read_text()) | {"run_dir": "", "seed": 0}
            configs[run.variant.name] = _flat(config)
    first = next(iter(configs.values()))
    common = [key for key in first if all(config[key] == first[key] for config in configs.values())]
    rest = {name: {k: v for k, v in config.items() if k not in common} for name, config in configs.items()}
    return {"common": {key: first[key] for key in common}, "variants": rest}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def write_run_record(outcome: Outcome, path: Path, command: str, minutes: float) -> None:
    """run.json: how the runs were made, by what and where. ``minutes`` is how long the command took."""
    records = [(run, run.finished() or {}) for run in outcome.runs]
    examples: dict[str, str] = {}
    for run in outcome.runs:
        examples.setdefault(run.variant.name, "python launch.py " + shlex.join(run.arguments))
    document = {
        "command": command,
        "commits": sorted({str(record["commit"]) for _, record in records}),
        "training_code_differs_from_commit": any(record["dirty"] for _, record in records),
        "dates": sorted({record["date"] for _, record in records}),
        "machine": machine(),
        "versions": versions(),
        "minutes_of_command": round(minutes, 1),
        "minutes_of_all_runs": round(sum(record["minutes"] for _, record in records), 1),
        "minutes_per_run": {run.name: record["minutes"] for run, record in records},
        "core_minutes_per_run": {run.name: record.get("core_minutes") for run, record in records},
        "first_training_of_each_variant": examples,
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """Usable cores, and on Linux the processor's model and those of its CPU_FLAGS that it has."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    entries = dict(re.findall(r"^(model name|flags)\s*: (.*)$", text, re.MULTILINE))
    flags = entries.get("flags", "").split()
    model = entries.get("model name", platform.processor())
    return {"cores": usable_cores(), "cpu": model, "cpu_flags": [flag for flag in CPU_FLAGS if flag in flags]}


def versions() -> dict[str, str]:
    """Versions of python and of those PACKAGES that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


# The command


def main(experiment: Experiment, arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run the experiment's command; returns 0, 1 if runs failed or none is there, 2 if --only matches nothing.

    ``root`` is the folder that holds results/ and runs/.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(experiment, arguments)
    folder = Path("runs") / "results" / (experiment.name + ("-quick" if options.quick else ""))
    output = root / folder if options.quick else root / "results" / experiment.name
    runs = plan(experiment, options, root, folder)
    wanted = [run for run in runs if fnmatch.fnmatch(run.name, f"*{options.only}*")]
    if not wanted:
        print(f"--only {options.only} matches none of: {'; '.join(v.name for v in experiment.variants)}")
        return 2
    began, failed, todo = time.monotonic(), 0, []
    if not options.plot_only:
        code = code_digest()
        todo = [run for run in wanted if options.fresh or (run.finished() or {}).get("code") != code]
        print(f"{experiment.title}: {len(todo)} runs to make, {len(wanted) - len(todo)} are there", flush=True)
        failed = len(todo) - Trainer(root, experiment.keep_checkpoints).train(todo, options.jobs)
    finished = [run for run in runs if run.finished()]
    if len(finished) < len(runs):
        print(f"{len(runs) - len(finished)} of {len(runs)} runs are missing from the outcome")
    if not finished:
        return 1
    outcome = Outcome(experiment, finished)
    write_outcome(outcome, output)
    # A command that made no run says nothing about how they were made.
    if todo or not (output / "run.json").exists():
        command = shlex.join(["python", "-m", f"results.{experiment.name}", *arguments])
        write_run_record(outcome, output / "run.json", command, (time.monotonic() - began) / 60)
    experiment.draw(outcome, output)
    print(f"Written to {output}")
    return 1 if failed else 0


def _parse(experiment: Experiment, arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(f"python -m results.{experiment.name}", description=experiment.title)
    parser.add_argument("--quick", action="store_true", help="few frames, one seed, into runs/: does it work at all?")
    parser.add_argument("--seeds", type=int, help=f"seeds per variant (default {experiment.seeds}; 1 with --quick)")
    jobs = 1 if experiment.whole_machine else usable_cores()
    parser.add_argument("--jobs", type=int, default=jobs, help=f"trainings at a time (default {jobs})")
    only = "runs whose name contains this, such as 'VARIANT, seed 2'; * and ? work"
    parser.add_argument("--only", default="", metavar="PATTERN", help=only)
    parser.add_argument("--fresh", action="store_true", help="make finished runs again")
    parser.add_argument("--plot-only", action="store_true", help="write the outcome of the runs that are there")
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or (1 if options.quick else experiment.seeds)
    if options.seeds < 1 or options.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")
    return options


def run_as_command(experiment: Experiment) -> None:
    """`main` as the whole process: SIGTERM stops the trainings as Ctrl-C does, and the exit code is main's."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main(experiment))
