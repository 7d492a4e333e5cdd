"""Breakout from pixels on this machine, with the preset as Pong left it: is it Pong-only?

    python -m results.breakout [--quick]

The whole agent has all cores for 60 minutes, through Ray, with preset ``laptop`` as it is.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from results import pong
from results.command import run_as_command
from results.experiment import Outcome, Variant


def draw(outcome: Outcome, folder: Path) -> None:
    """curves.png, as of Pong; by frames the training returns, because four greedy games say little."""
    pong.draw_game(outcome, folder, "Breakout", "return_per_epsilon/low", "return of the lanes with small epsilon")


EXPERIMENT = dataclasses.replace(
    pong.EXPERIMENT,
    name="breakout",
    title="Breakout from pixels: the whole agent, with Pong's preset",
    env="ALE/Breakout-v5",
    variants=(Variant(pong.WHOLE, ("--max-minutes", "60")),),
    draw=draw,
    seeds=1,
)

if __name__ == "__main__":
    run_as_command(EXPERIMENT)
