"""What the successor's parts bring on Pong: MEME's propagation, network and policy head, one on top of the other.

    python -m results.meme_ablation [--quick]

Preset ``laptop``, equal frames, one core per training; run.json states processor time. docs/results.md says what came
out.
"""

from __future__ import annotations

from pathlib import Path

from cluster.commands.report.charts import save_panels
from results.command import run_as_command
from results.experiment import Experiment, Outcome, Variant, length

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


def draw(outcome: Outcome, folder: Path) -> None:
    """curves.png: greedy score and training return at equal frames."""
    panels = [
        outcome.panel("evaluation/return", "greedy score"),
        outcome.panel("return_per_epsilon/low", "return of the lanes with small epsilon"),
    ]
    save_panels(folder / "curves.png", "Pong, preset laptop, MEME's parts one on top of the other", panels, width=12.0)


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
    draw=draw,
    final_tag="return_per_epsilon/low",
    preset="laptop",
)

if __name__ == "__main__":
    run_as_command(EXPERIMENT)
