"""Memory: with and without the LSTM's state, on a maze that asks at its end for what was seen at its start.

    python -m results.memory [--quick]

Without memory the right arm of the T is a guess: a mean return of 0 at best. The sequences (40 steps, a new one every
20) are longer than the corridor, so that learning reaches back to the cue.
"""

from __future__ import annotations

from pathlib import Path

from cluster.commands.report.charts import save_panels
from results.command import run_as_command
from results.experiment import SMALL_NETWORKS, Experiment, Outcome, Variant, length

VARIANTS = (Variant("recurrent"), Variant("no memory", ("--network.no-recurrent",)))


def draw(outcome: Outcome, folder: Path) -> None:
    """curves.png: returns of the greedy evaluator and of all episodes of training."""
    panels = [outcome.panel("evaluation/return", "greedy return"), outcome.panel("return/all", "return in training")]
    save_panels(folder / "curves.png", "T-maze: means and 95 % intervals over seeds", panels)


EXPERIMENT = Experiment(
    name="memory",
    title="T-maze: a recurrent agent against one without memory",
    env="Agent57/TMaze-v0",
    variants=VARIANTS,
    base_flags=(
        *length(450_000, 25),
        *("--sequence.trace-length", "40", "--sequence.replay-period", "20", "--replay.min-sequences", "100"),
        *("--learner.batch-size", "16", "--evaluation.episodes", "64", *SMALL_NETWORKS),
    ),
    quick_flags=length(60_000, 4),
    curve_tags=("evaluation/return", "return/all", "learner/extrinsic_mean_q"),
    draw=draw,
)

if __name__ == "__main__":
    run_as_command(EXPERIMENT)
