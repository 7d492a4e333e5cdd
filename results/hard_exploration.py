"""Hard exploration: what intrinsic rewards and the bandit are each worth on a MiniGrid level of four rooms.

    python -m results.hard_exploration [--quick]

The reward waits behind three doors, 80 steps are all there are, and every episode has other rooms. Compared with the
full agent are one without intrinsic rewards (beta 0) and one whose lanes keep a policy each, as in NGU, in place of the
meta-controller (Agent57 section 3.2). Needs minigrid.
"""

from __future__ import annotations

from pathlib import Path

from agent57.family import PolicyFamily
from cluster.commands.report.charts import save_panels
from results.command import run_as_command
from results.experiment import SMALL_NETWORKS, Experiment, Outcome, Variant, length

NUM_POLICIES = 4
BETA_MAX = 0.01
"""Intrinsic rewards are scaled to a standard deviation of 1: this still outweighs everything until the goal is found.
With the paper's 0.3 exploratory policies went on avoiding the goal, because it ends the episode."""
SETTINGS = (
    *SMALL_NETWORKS,
    *("--learner.batch-size", "16", "--sequence.trace-length", "20", "--sequence.replay-period", "20"),
    # The few sequences with a reward must neither be clipped away nor be forgotten before they are learned.
    *("--learner.max-grad-norm", "500", "--replay.capacity-steps", "1000000"),
    # An episode has 80 steps: memories that pay nothing for the first ten would waste an eighth of it.
    *("--intrinsic.young-memory", "padded"),
)
FULL = "full agent"
VARIANTS = (
    Variant(FULL),
    Variant("no intrinsic reward", ("--family.beta-max", "0")),
    Variant("a policy per lane", ("--bandit.assignment", "per_lane")),
)


def draw(outcome: Outcome, folder: Path) -> None:
    """curves.png: greedy returns, cells visited in training, and how the full agent's episodes are shared."""
    betas = PolicyFamily(num_policies=NUM_POLICIES, beta_max=BETA_MAX).betas
    panels = [
        outcome.panel("evaluation/return", "greedy return"),
        outcome.panel("return/new_states", "cells visited per episode, in training"),
        outcome.shares(
            FULL, [f"policy {n}, beta {beta:.2g}" for n, beta in enumerate(betas)], "share of the full agent's episodes"
        ),
    ]
    save_panels(folder / "curves.png", "MiniGrid MultiRoom-N4-S5: means and 95 % intervals over seeds", panels, 15.0)


EXPERIMENT = Experiment(
    name="hard_exploration",
    title="MiniGrid MultiRoom-N4-S5: the full agent, no intrinsic rewards, no bandit",
    env="actors.environments.minigrid_levels:Agent57/MiniGridMoves-MultiRoom-N4-S5-v1",
    variants=VARIANTS,
    base_flags=(
        *length(1_500_000, 30),
        *("--family.num-policies", str(NUM_POLICIES), "--family.beta-max", str(BETA_MAX)),
        *("--evaluation.episodes", "16", *SETTINGS),
    ),
    quick_flags=length(30_000, 4),
    curve_tags=(
        *("evaluation/return", "return/all", "return/new_states", "return/length", "bandit/favourite_arm"),
        *(f"return_per_arm/{policy:02d}" for policy in range(NUM_POLICIES)),
        *(f"bandit_share/{policy:02d}" for policy in range(NUM_POLICIES)),
    ),
    draw=draw,
)

if __name__ == "__main__":
    run_as_command(EXPERIMENT)
