"""Long horizon: does the bandit find the discount that pays? (Agent57 section 3.2.)

    python -m results.long_horizon [--quick]

A reward of 1 near by, one of 2 far away: to a discount of 0.9 the near one is worth more, to 0.997 the far one. The
adaptive agent has eight policies between the two and must learn by their returns which to play; the controls have one
policy, with one of the two discounts and, as a single policy must, beta = 0. The family keeps a small intrinsic reward:
with beta_max = 0 (and the far reward 60 steps away) two of three adaptive runs ended at the near reward, probably for
want of exploration.
"""

from __future__ import annotations

from pathlib import Path

from agent57.family import PolicyFamily
from cluster.commands.report.charts import save_panels
from results.command import run_as_command
from results.experiment import SMALL_NETWORKS, Experiment, Outcome, Variant, length

FAR = 30
"""Steps to the larger reward; a discount below 0.975 then prefers the smaller one, 3 steps away."""
BETA_MAX = 0.1
NUM_POLICIES, LONG, SHORT = 8, 0.997, 0.9
ADAPTIVE = "adaptive"


def horizon(longest: float, shortest: float) -> tuple[str, ...]:
    return ("--family.gamma-max", str(longest), "--family.gamma-min", str(shortest))


VARIANTS = (
    Variant(ADAPTIVE, horizon(LONG, SHORT)),
    Variant(f"gamma {SHORT:g} only", ("--family.num-policies", "1", *horizon(SHORT, SHORT))),
    Variant(f"gamma {LONG:g} only", ("--family.num-policies", "1", *horizon(LONG, LONG))),
)


def draw(outcome: Outcome, folder: Path) -> None:
    """curves.png: greedy returns, and how the adaptive agent's episodes are shared among its policies."""
    discounts = PolicyFamily(num_policies=NUM_POLICIES, gamma_max=LONG, gamma_min=SHORT).discounts
    arms = [f"gamma {discount:.3f}" for discount in discounts]
    panels = [
        outcome.panel("evaluation/return", "greedy return"),
        outcome.shares(ADAPTIVE, arms, "share of the adaptive agent's episodes"),
    ]
    save_panels(folder / "curves.png", "Near or far: means and 95 % intervals over seeds", panels)


EXPERIMENT = Experiment(
    name="long_horizon",
    title="Near or far: a family of discounts and a bandit against one discount",
    env="Agent57/NearOrFar-v0",
    variants=VARIANTS,
    base_flags=(
        *length(200_000, 20),
        *("--family.num-policies", str(NUM_POLICIES), "--family.beta-max", str(BETA_MAX)),
        *("--environment.arguments", f"far={FAR}", "--evaluation.episodes", "32", *SMALL_NETWORKS),
    ),
    quick_flags=length(40_000, 4),
    curve_tags=(
        *("evaluation/return", "return/all", "bandit/favourite_arm"),
        *(f"bandit_share/{policy:02d}" for policy in range(NUM_POLICIES)),
    ),
    draw=draw,
)

if __name__ == "__main__":
    run_as_command(EXPERIMENT)
