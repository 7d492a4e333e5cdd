"""What is written about the baselines: commands that their examples accept, tables and figures of what is finished."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import ModuleType

import pytest
import tyro

from cluster.commands.side_by_side import ROOT
from examples import ddpg_pendulum, gaussian_policy_gradient, reinforce_cartpole
from results.baselines import EXPERIMENT
from results.command import main
from results.experiment import FINISHED, Variant, training_arguments

EXAMPLES = {
    "examples/ddpg_pendulum.py": ddpg_pendulum,
    "examples/gaussian_policy_gradient.py": gaussian_policy_gradient,
    "examples/reinforce_cartpole.py": reinforce_cartpole,
}


@pytest.mark.parametrize("variant", EXPERIMENT.variants, ids=lambda variant: variant.name)
def test_the_examples_accept_their_commands(variant: Variant) -> None:
    script, *flags = training_arguments(EXPERIMENT, variant, 7, Path("folder"))
    module: ModuleType = EXAMPLES[script]
    assert (ROOT / script).exists()
    for given in (flags, [*flags, *variant.quick_flags]):
        parsed = tyro.cli(module.Args, args=given)
        assert (parsed.seed, parsed.run_dir) == (7, "folder")


def test_tables_and_figures_show_what_is_finished(tmp_path: Path) -> None:
    finished = {("softmax", 2): [10.0, 500.0], ("ddpg", 1): [-1000.0, -150.0]}
    variants = {variant.name: variant for variant in EXPERIMENT.variants}
    for (name, seed), values in finished.items():
        folder = Path("runs/results/baselines") / f"{name}-{seed}"
        (tmp_path / folder).mkdir(parents=True)
        rows = [f"{tag},{100 * (n + 1)},{v}" for tag in ("train/return", "eval/return") for n, v in enumerate(values)]
        (tmp_path / folder / "curves.csv").write_text("\n".join(["tag,step,value", *rows]) + "\n")
        arguments = training_arguments(EXPERIMENT, variants[name], seed, folder)
        record = {"arguments": arguments, "commit": None, "dirty": None, "date": "today", "minutes": 1.0}
        (tmp_path / folder / FINISHED).write_text(json.dumps(record))
    assert main(EXPERIMENT, ["--plot-only"], tmp_path) == 0
    output = tmp_path / "results" / "baselines"
    with open(output / "summary.csv") as file:
        ddpg, softmax = csv.DictReader(file)
    assert (softmax["variant"], softmax["tag"], softmax["seeds"], softmax["mean"]) == (
        "softmax",
        "eval/return",
        "1",
        "500",
    )
    assert (ddpg["variant"], ddpg["mean"]) == ("ddpg", "-150")
    assert (output / "curves.csv").read_text().count("\n") == 9
    assert "examples/ddpg_pendulum.py" in (output / "config.json").read_text()
    assert {path.name for path in output.glob("*.png")} == {"cartpole.png", "continuous.png"}


def test_a_baseline_is_trained_and_shown(tmp_path: Path) -> None:
    """Really: the one-shot game in its shortest form."""
    assert main(EXPERIMENT, ["--quick", "--only", "one-shot, seed 1"], tmp_path) == 0
    output = tmp_path / "runs" / "results" / "baselines-quick"
    assert "one-shot,1,eval/return,5" in (output / "curves.csv").read_text()
    assert (
        json.loads((output / "one-shot-1" / FINISHED).read_text())["arguments"][0]
        == "examples/gaussian_policy_gradient.py"
    )
