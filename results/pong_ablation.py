"""What holds the whole agent back on Pong: one idea at a time switched off, all at equal frames.

    python -m results.pong_ablation [--quick]

Preset ``laptop``, one core per training. The suspects: priorities owned by intrinsic TD errors, the weight of
intrinsic rewards, the bandit's exploration, RND, and the trace. docs/results.md says what came out.
"""

from __future__ import annotations

from results.command import run_as_command
from results.experiment import Experiment, Variant, draws_score_and_return, length
from results.pong import EXTRINSIC_ALONE

VARIANTS = (
    Variant("laptop"),
    Variant("beta_max 0.3, the paper's", ("--family.beta-max", "0.3")),
    Variant("strict Retrace", ("--loss.trace", "retrace")),
    Variant("uniform replay", ("--replay.priority-exponent", "0")),
    Variant("no RND", ("--intrinsic.novelty", "episodic")),
    Variant("bandit epsilon 0.5", ("--bandit.epsilon", "0.5")),
    Variant("raw TD errors and r^i", ("--loss.no-normalize-td", "--loss.no-normalize-intrinsic")),
    Variant("extrinsic network alone", EXTRINSIC_ALONE),
)


EXPERIMENT = Experiment(
    name="pong_ablation",
    title="Pong: what holds the whole agent back",
    env="ALE/Pong-v5",
    variants=VARIANTS,
    base_flags=length(3_000_000, 15),
    quick_flags=length(100_000, 2),
    curve_tags=(
        *("evaluation/return", "return/all", "return_per_epsilon/low", "rate/learner_updates"),
        *("learner/trace_coefficient", "learner/extrinsic_abs_td", "learner/intrinsic_abs_td", "bandit/favourite_arm"),
    ),
    draw=draws_score_and_return("Pong, preset laptop, one change each"),
    final_tag="return_per_epsilon/low",
    seeds=1,
    preset="laptop",
)

if __name__ == "__main__":
    run_as_command(EXPERIMENT)
