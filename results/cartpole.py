"""CartPole: the whole agent with preset ``small``, against wall-clock time.

    python -m results.cartpole [--quick]

One seed shows that it learns, not how reliably.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cluster.commands.report.charts import MINUTES, save_panels
from results import pong
from results.command import run_as_command
from results.experiment import Outcome, Variant, length


def draw(outcome: Outcome, folder: Path) -> None:
    """curves.png: greedy score by minutes, training return by frames."""
    panels = [
        outcome.panel("evaluation/return", "greedy score", MINUTES),
        outcome.panel("return_per_epsilon/low", "return of the lanes with small epsilon"),
    ]
    save_panels(folder / "curves.png", "CartPole-v1, preset small", panels)


EXPERIMENT = dataclasses.replace(
    pong.EXPERIMENT,
    name="cartpole",
    title="CartPole: the whole agent in five minutes",
    env="CartPole-v1",
    variants=(Variant(pong.WHOLE, ("--max-minutes", "5")),),
    base_flags=length(10_000_000, 200),
    quick_flags=length(40_000, 4),
    draw=draw,
    preset="small",
    seeds=1,
)

if __name__ == "__main__":
    run_as_command(EXPERIMENT)
