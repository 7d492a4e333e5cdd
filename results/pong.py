"""Pong from pixels on this machine: the whole agent, and the extrinsic network alone, against wall-clock time.

    python -m results.pong [--quick]

Each training has all cores, through Ray, with preset ``laptop`` as it is: 60 minutes for the whole agent, 25 for one
policy without intrinsic rewards, which is what the rest of the agent must not cost too much against. What holds the
whole agent back is asked by ``results/pong_ablation.py``, at equal frames.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from cluster.commands.report.charts import MINUTES, save_panels
from results.command import run_as_command
from results.experiment import Experiment, Outcome, Variant, length

WHOLE, ONE_POLICY = "whole agent", "one policy"
NUM_POLICIES = 8
EXTRINSIC_ALONE = (
    *("--family.num-policies", "1", "--family.beta-max", "0"),
    *("--intrinsic.novelty", "none", "--network.kind", "single"),
)
VARIANTS = (Variant(WHOLE, ("--max-minutes", "60")), Variant(ONE_POLICY, (*EXTRINSIC_ALONE, "--max-minutes", "25")))


def draw_game(
    outcome: Outcome, folder: Path, game: str, tag: str = "evaluation/return", label: str = "greedy score"
) -> None:
    """curves.png: greedy score by minutes, ``tag`` by frames, and how episodes are shared among the policies."""
    panels = [
        outcome.panel("evaluation/return", "greedy score", MINUTES),
        outcome.panel(tag, label),
        outcome.shares(WHOLE, [f"policy {n}" for n in range(NUM_POLICIES)], "share of the whole agent's episodes"),
    ]
    title = f"{game}, preset {outcome.experiment.preset}: means and 95 % intervals over seeds"
    save_panels(folder / "curves.png", title, panels, width=15.0)


EXPERIMENT = Experiment(
    name="pong",
    title="Pong from pixels: the whole agent, and one policy alone",
    env="ALE/Pong-v5",
    variants=VARIANTS,
    base_flags=length(40_000_000, 100),
    quick_flags=length(100_000, 2),
    curve_tags=(
        *("evaluation/return", "return/all", "return_per_epsilon/low", "rate/learner_updates"),
        *("rate/env_frames_per_second", "rate/updates_per_second", "learner/embedding_accuracy", "learner/rnd_error"),
        *(f"bandit_share/{arm:02d}" for arm in range(NUM_POLICIES)),
    ),
    draw=partial(draw_game, game="Pong"),
    preset="laptop",
    whole_machine=True,
)

if __name__ == "__main__":
    run_as_command(EXPERIMENT)
