"""What an earlier outcome in results/<experiment> tells of runs whose folders are not here; --extend keeps it."""

from __future__ import annotations

import csv
import json
import shlex
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cluster.telemetry.metrics import series_by_tag
from cluster.telemetry.score import RULE
from results.experiment import Earlier, Experiment, Metrics, RunKey, run_name, training_arguments


def read_earlier(experiment: Experiment, folder: Path, here: Collection[RunKey]) -> Earlier:
    """The runs that ``folder`` tells of, but for those that are ``here`` and those trained or judged otherwise.

    An empty one if nothing was written there before.
    """
    if not (folder / "run.json").exists():
        return Earlier()
    newest = json.loads((folder / "run.json").read_text())
    records = [newest, *newest.pop("earlier_runs", [])]
    comparable = {name for record in records for name in _made_and_judged_alike(experiment, record)}
    written = _read_curves(folder / "curves.csv")
    metrics = {key: series for key, series in written.items() if key[0] in comparable and key not in here}
    kept = {run_name(key) for key in metrics}
    for record in records:
        for by_run in {"minutes_per_run", "core_minutes_per_run"} & set(record):
            record[by_run] = {name: value for name, value in record[by_run].items() if name in kept}
    configs = json.loads((folder / "config.json").read_text())
    return Earlier(
        metrics,
        {name: configs["common"] | configs["variants"][name] for name in {variant for variant, _ in metrics}},
        [record for record in records if record["minutes_per_run"]],
        sorted({variant for variant, _ in written} - comparable),
    )


def _made_and_judged_alike(experiment: Experiment, record: dict[str, Any]) -> list[str]:
    """Names of the variants that the record shows and that the experiment would train with the same command today.

    Scores of earlier versions are no such thing, unless the policy judged was a fixed one.
    """
    names = []
    for variant in experiment.variants:
        arguments = shlex.split(record["first_training_of_each_variant"].get(variant.name, ""))
        if arguments:
            seed, run_dir = (arguments[arguments.index(flag) + 1] for flag in ("--seed", "--run-dir"))
            judged_alike = record.get("score") == RULE or "--evaluation.policy-index" in arguments
            if judged_alike and arguments[1:] == training_arguments(experiment, variant, int(seed), Path(run_dir)):
                names.append(variant.name)
    return names


def _read_curves(path: Path) -> dict[RunKey, Metrics]:
    rows: dict[RunKey, list[tuple[str, int, float, float]]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            point = row["tag"], int(row["env_frames"]), float(row["minutes"]), float(row["value"])
            rows[row["variant"], int(row["seed"])].append(point)
    return {key: series_by_tag(points) for key, points in rows.items()}
