"""The algorithm is open: a trace, a term of the loss and a novelty are one new file and one entry each.

A copy of the tree gets all three, and a further per-step field (two lines), and trains.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("agent57", "actors", "learner", "replay", "cluster")

TREE_BACKUP = """
def tree_backup(acted):
    taken = acted.target_policy.gather(-1, acted.actions.unsqueeze(-1)).squeeze(-1)
    return acted.lambda_ * taken
"""
SMALL_VALUES = """
from agent57.terms.term import Figure, Over, Term, Update


def small_values(update: Update) -> Term:
    head = update.networks.q_ext.value_head[-1]
    loss = 1e-3 * head.weight.square().sum()
    figures = {"small_values": Figure(loss.detach(), Over.SEQUENCES)}
    # The per-step field that another addition keeps.
    figures["epsilon"] = Figure(update.batch.epsilons.mean(), Over.SEQUENCES)
    return Term(loss, Over.SEQUENCES, figures)
"""
BRIGHTNESS = """
import numpy as np

from agent57.novelty.contract import Earned, LaneNovelty, Novelty, Part


class Brightness(Novelty):
    parts = (Part("brightness"),)

    def lanes(self, networks, num_lanes):
        return BrightLanes()


class BrightLanes(LaneNovelty):
    def earn(self, observations):
        mean = observations.float().flatten(1).mean(1).cpu().numpy() / 255
        return Earned(mean.astype(np.float32), {"brightness": mean})
"""
ADDITIONS = {
    "trace": (
        "agent57/tree_backup.py",
        TREE_BACKUP,
        "agent57/traces.py",
        {
            'retrace = Estimator(_retrace, baseline="taken")': '{}\n    tree_backup = Estimator(tree_backup, "taken")',
            "from agent57.values import": "from agent57.tree_backup import tree_backup\n{}",
        },
    ),
    "term": (
        "agent57/terms/small_values.py",
        SMALL_VALUES,
        "agent57/terms/__init__.py",
        {
            "TERMS: tuple[LossTerm, ...] = ()": "TERMS: tuple[LossTerm, ...] = (small_values,)",
            "from agent57.terms.term import": "from agent57.terms.small_values import small_values\n{}",
        },
    ),
    "novelty": (
        "agent57/novelty/brightness.py",
        BRIGHTNESS,
        "agent57/novelty/__init__.py",
        {
            '"none": NoNovelty': '{}, "brightness": Brightness',
            "from agent57.novelty.contract import": "from agent57.novelty.brightness import Brightness\n{}",
        },
    ),
}
STEP_FIELD = {
    "agent57/structures.py": {
        '    intrinsic_rewards: Array = field(metadata=_kept(np.float32, "<f4"))\n': (
            '{}    epsilons: Array = field(metadata=_kept(np.float32, "<f4"))\n'
        )
    },
    "actors/lanes.py": {
        "            behaviour_probs=behaviour_probs,\n": "{}            epsilons=self.epsilons.astype(np.float32),\n"
    },
}
"""A number more that is kept of every step: a line in the table, and one where lanes know it."""


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*.py")}


def test_one_new_file_and_one_entry_each(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "launch.py", tree)
    before = files(tree)
    for kind, (new, text, registry, edits) in ADDITIONS.items():
        earlier = files(tree)
        (tree / new).write_text(text)
        for old, replacement in edits.items():
            source = (tree / registry).read_text()
            assert source.count(old) == 1, (kind, old)
            (tree / registry).write_text(source.replace(old, replacement.format(old)))
        now = files(tree)
        touched = {name for name in now if now[name] != earlier.get(name)}
        assert touched == {new, registry}, kind
        # The entry and the import that it needs.
        added = len(now[registry].splitlines()) - len(earlier[registry].splitlines())
        assert added <= 2, kind
    assert len(files(tree)) == len(before) + 3
    for name, edits in STEP_FIELD.items():
        for old, replacement in edits.items():
            source = (tree / name).read_text()
            assert source.count(old) == 1, (name, old)
            (tree / name).write_text(source.replace(old, replacement.format(old)))
    script = (
        "import sys, launch\nfrom cluster.telemetry.metrics import read_metrics\n"
        "assert launch.main(sys.argv[1:]) == 0\nmetrics = read_metrics(sys.argv[-1])\n"
        "print(*(metrics[tag].values[-1] for tag in sorted(metrics) if tag in "
        "('intrinsic/brightness', 'learner/epsilon', 'learner/small_values', 'learner/trace_coefficient')))"
    )
    flags = "train --serial --env Agent57/RandomCoin-v0 --preset smoke --max-env-frames 800 --log-seconds 0.2"
    ours = "--intrinsic.novelty brightness --loss.trace tree_backup --run-dir"
    done = subprocess.run(
        [sys.executable, "-c", script, *flags.split(), *ours.split(), str(tmp_path / "run")],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    brightness, epsilon, small_values, coefficient = (float(value) for value in done.stdout.split()[-4:])
    assert 0 < epsilon < 0.4
    assert 0 < brightness < 1
    assert 0 < small_values < 1
    assert 0 < coefficient < 0.9


def test_the_examples_of_additions_are_not_in_the_tree() -> None:
    """Or the test above would count for nothing."""
    for new, *_ in ADDITIONS.values():
        assert not (ROOT / new).exists(), f"{new} is there: choose another example"
