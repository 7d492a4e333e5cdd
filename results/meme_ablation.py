"""What the successor's parts bring on Pong: MEME's propagation, network and policy head, one on top of the other.

    python -m results.meme_ablation [--quick]

Preset ``laptop``, equal frames, one core per training; run.json states processor time. docs/results.md says what came
out.
"""

from __future__ import annotations

from results.command import run_as_command
from results.experiment import Experiment, Variant, draws_score_and_return, length

ONLINE = ("--loss.bootstrap", "online", "--loss.td-scale", "policy")
REGION = ("--loss.trust-region", "2")
SOFT_WATKINS = ("--loss.trace", "soft_watkins")
SHARED = ("--network.kind", "shared")
HEAD = (*SHARED, "--network.policy-head")
VARIANTS = (
    Variant("laptop"),
    Variant("propagation", (*SOFT_WATKINS, *ONLINE, *REGION)),
    Variant("shared network", (*SOFT_WATKINS, *ONLINE, *REGION, *SHARED, "--loss.mixture-eta", "1")),
    Variant("cross-mixture", (*SOFT_WATKINS, *ONLINE, *REGION, *SHARED)),
    Variant("whole", (*SOFT_WATKINS, *ONLINE, *REGION, *HEAD)),
    Variant("whole, Peng's trace", (*ONLINE, *REGION, *HEAD)),
    Variant("whole, no trust region", (*SOFT_WATKINS, *ONLINE, *HEAD)),
    Variant("cross-mixture, Peng's trace", (*ONLINE, *REGION, *SHARED)),
)
"""Each of the first five adds to the one before it; the last three take something away."""


EXPERIMENT = Experiment(
    name="meme_ablation",
    title="Pong: what MEME's parts bring",
    env="ALE/Pong-v5",
    variants=VARIANTS,
    base_flags=length(3_000_000, 15),
    quick_flags=length(100_000, 2),
    curve_tags=(
        *("evaluation/return", "return/all", "return_per_epsilon/low", "rate/learner_updates"),
        *("learner/trace_coefficient", "learner/masked_share", "learner/policy_agreement"),
    ),
    draw=draws_score_and_return("Pong, preset laptop, MEME's parts one on top of the other"),
    final_tag="return_per_epsilon/low",
    preset="laptop",
)

if __name__ == "__main__":
    run_as_command(EXPERIMENT)
