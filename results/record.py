"""Writes what came out of an experiment's runs (curves.csv, summary.csv), and how they were made (config, run.json)."""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import json
import platform
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from cluster.commands.report.statistics import bootstrap_interval, interquartile_mean, thin
from cluster.plan.machine import usable_cores
from cluster.run.config import flat
from cluster.telemetry.score import RULE
from replay.whole_files import write_whole
from results.experiment import MAX_POINTS, Outcome

MAX_ROWS = 12_000
"""Of all series in curves.csv, which stays under 1 MB."""
PACKAGES = ("torch", "numpy", "gymnasium", "ale-py", "minigrid", "matplotlib")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")
"""Instructions on which the speed of training depends."""


def write_outcome(outcome: Outcome, folder: Path) -> None:
    """Write curves.csv, summary.csv and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_curves(outcome, folder / "curves.csv")
    _write_summary(outcome, folder / "summary.csv")
    config = json.dumps(_configs(outcome), indent=2)
    write_whole(folder / "config.json", config + "\n")


def _write_curves(outcome: Outcome, path: Path) -> None:
    logged = [
        (key, tag, of_run[tag])
        for key, of_run in outcome.metrics.items()
        for tag in outcome.experiment.curve_tags
        if tag in of_run
    ]
    points = max(1, min(MAX_POINTS, MAX_ROWS // max(1, len(logged))))
    rows: list[list[Any]] = [["variant", "seed", "tag", "env_frames", "minutes", "value"]]
    for key, tag, whole in logged:
        for frames, minutes, value in zip(*thin(whole, points), strict=True):
            rows.append([*key, tag, frames, f"{minutes:.2f}", f"{value:.5g}"])
    _write_rows(rows, path)


def _write_rows(rows: list[list[Any]], path: Path) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_whole(path, text.getvalue())


def _write_summary(outcome: Outcome, path: Path) -> None:
    """One row per variant: statistics over seeds of the final value, which is a mean over the last 20 % of points."""
    columns = ["mean", "interval_low", "interval_high", "interquartile_mean", "min", "max"]
    rows: list[list[Any]] = [["variant", "tag", "seeds", *columns]]
    for variant in outcome.experiment.variants:
        values = np.array(outcome.final_values(variant.name))
        if not len(values):
            continue
        statistics = [values.mean(), *bootstrap_interval(values), interquartile_mean(values), min(values)]
        numbers = [f"{number:.5g}" for number in (*statistics, max(values))]
        rows.append([variant.name, outcome.experiment.final_tag, len(values), *numbers])
    _write_rows(rows, path)


def _configs(outcome: Outcome) -> dict[str, Any]:
    """What the variants' configs have in common, and for each variant the rest; keys such as "family.beta_max"."""
    configs: dict[str, dict[str, Any]] = {}
    for run in outcome.runs:
        if run.variant.name not in configs:
            config = {"command": shlex.join((run.variant.script, *run.variant.flags))}
            if run.variant.script == "launch.py":
                # The folder and the seed say nothing about the variant.
                config = json.loads((run.folder / "config.json").read_text()) | {"run_dir": "", "seed": 0}
            configs[run.variant.name] = flat(config)
    found = outcome.earlier.configs | configs
    configs = {variant.name: found[variant.name] for variant in outcome.experiment.variants if variant.name in found}
    first = next(iter(configs.values()))
    # Runs of other versions may lack a key.
    common = [key for key in first if all(key in other and other[key] == first[key] for other in configs.values())]
    rest = {name: {k: v for k, v in config.items() if k not in common} for name, config in configs.items()}
    return {"common": {key: first[key] for key in common}, "variants": rest}


def write_run_record(outcome: Outcome, path: Path, command: str, minutes: float) -> None:
    """run.json: how the runs were made, by what and where; then the same of the earlier ones.

    ``minutes`` is how long the command took.
    """
    records = [(run, run.finished() or {}) for run in outcome.runs]
    examples: dict[str, str] = {}
    for run in outcome.runs:
        examples.setdefault(run.variant.name, "python " + shlex.join(run.arguments))
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
        "score": RULE,
        "first_training_of_each_variant": examples,
    }
    if outcome.earlier.records:
        document["earlier_runs"] = outcome.earlier.records
    write_whole(path, json.dumps(document, indent=2) + "\n")


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
