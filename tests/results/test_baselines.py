"""What is written about the baselines: commands that their examples accept, tables and figures of what is finished."""

from __future__ import annotations

import csv
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tyro

pytest.importorskip("matplotlib")

from cluster.telemetry.metrics import MetricSeries
from examples import ddpg_pendulum, gaussian_policy_gradient, reinforce_cartpole
from results import baselines
from results.baselines import BASELINES, Baseline, moving_mean

EXAMPLES = {
    "examples/ddpg_pendulum.py": ddpg_pendulum,
    "examples/gaussian_policy_gradient.py": gaussian_policy_gradient,
    "examples/reinforce_cartpole.py": reinforce_cartpole,
}


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda baseline: baseline.name)
def test_the_examples_accept_their_commands(baseline: Baseline) -> None:
    file, *flags = baseline.command.split()
    module: ModuleType = EXAMPLES[file]
    assert tyro.cli(module.Args, args=[*flags, "--seed", "7"]).seed == 7


def test_the_moving_mean_starts_with_what_there_is() -> None:
    series = MetricSeries(np.arange(4), np.zeros(4), np.array([1.0, 3.0, 5.0, 1.0]))
    assert moving_mean(series, 2).values.tolist() == [1, 2, 4, 3]


def test_tables_and_figures_show_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(baselines, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("sys.argv", ["baselines", "--plot-only"])
    finished = {"softmax-seed2": [10.0, 500.0], "ddpg-seed1": [-1000.0, -150.0]}
    for folder, values in finished.items():
        (tmp_path / "runs" / folder).mkdir(parents=True)
        rows = [f"{tag},{100 * (n + 1)},{v}" for tag in ("train/return", "eval/return") for n, v in enumerate(values)]
        (tmp_path / "runs" / folder / "curves.csv").write_text("\n".join(["tag,step,value", *rows]) + "\n")
    baselines.main()
    with open(tmp_path / "results" / "summary.csv") as file:
        cartpole, ddpg = csv.DictReader(file)
    assert (cartpole["baseline"], cartpole["seed"], cartpole["trained"]) == ("softmax", "2", "200")
    assert (cartpole["greedy_return"], cartpole["train_return"]) == ("500", "255")
    assert (ddpg["greedy_return"], ddpg["first_above_-200"]) == ("-150", "200")
    assert (tmp_path / "results" / "curves.csv").read_text().count("\n") == 9
    assert {path.suffix for path in (tmp_path / "results").iterdir()} == {".csv", ".json", ".png"}
