"""Hard exploration: what intrinsic rewards and the bandit are each worth on a MiniGrid level of four rooms.

    python -m results.hard_exploration [--quick]

The reward waits behind three doors. Compared with the full agent are one without intrinsic rewards (beta 0) and one
whose lanes keep a policy each, as in NGU, in place of the meta-controller (Agent57 section 3.2). Needs minigrid.
"""

from __future__ import annotations

from pathlib import Path

from agent57.policy_family import PolicyFamily
from results.experiment import Experiment, Outcome, Variant, run_as_command
from results.plots import save_returns_and_shares

FRAMES, QUICK_FRAMES = 1_500_000, 30_000
EVALUATIONS = 30
NUM_POLICIES, BETA_MAX = 4, 0.3
FULL = "full agent"
VARIANTS = (
    Variant(FULL),
    Variant("no intrinsic reward", ("--family.beta-max", "0")),
    Variant("a policy per lane", ("--bandit.assignment", "per_lane")),
)


def draw(outcome: Outcome, folder: Path) -> None:
    """curves.png: greedy returns, and how the full agent's episodes are shared among its policies."""
    curves = {variant.name: outcome.series(variant.name, "evaluation/return") for variant in VARIANTS}
    betas = PolicyFamily(num_policies=NUM_POLICIES, beta_max=BETA_MAX).betas
    arms = {f"beta {beta:.2g}": outcome.series(FULL, f"bandit_share/{policy:02d}") for policy, beta in enumerate(betas)}
    save_returns_and_shares(folder / "curves.png", "MiniGrid MultiRoom-N4-S5", curves, arms, "full agent")


EXPERIMENT = Experiment(
    name="hard_exploration",
    title="MiniGrid MultiRoom-N4-S5: the full agent, no intrinsic rewards, no bandit",
    env="actors.minigrid_levels:Agent57/MiniGrid-MultiRoom-N4-S5-v0",
    variants=VARIANTS,
    base_flags=(
        *("--max-env-frames", str(FRAMES), "--evaluation.period-env-frames", str(FRAMES // EVALUATIONS)),
        *("--family.num-policies", str(NUM_POLICIES), "--family.beta-max", str(BETA_MAX)),
    ),
    quick_flags=("--max-env-frames", str(QUICK_FRAMES), "--evaluation.period-env-frames", str(QUICK_FRAMES // 4)),
    curve_tags=(
        *("evaluation/return", "return/all", "return/new_states", "bandit/favourite_arm"),
        *(f"bandit_share/{policy:02d}" for policy in range(NUM_POLICIES)),
    ),
    draw=draw,
)

if __name__ == "__main__":
    run_as_command(EXPERIMENT)
