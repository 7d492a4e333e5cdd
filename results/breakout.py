"""Breakout from pixels on this machine, with the preset as Pong left it: is it Pong-only?

    python -m results.breakout [--quick]

The whole agent has all cores for 60 minutes, through Ray, with preset ``laptop`` as it is.
"""

from __future__ import annotations

import dataclasses
from functools import partial

from results import pong
from results.command import run_as_command
from results.experiment import Variant

EXPERIMENT = dataclasses.replace(
    pong.EXPERIMENT,
    name="breakout",
    title="Breakout from pixels: the whole agent, with Pong's preset",
    env="ALE/Breakout-v5",
    variants=(Variant(pong.WHOLE, ("--max-minutes", "60")),),
    # By frames the training returns, because four greedy games say little.
    draw=partial(
        pong.draw_game,
        game="Breakout",
        tag="return_per_epsilon/low",
        label="return of the lanes with small epsilon",
    ),
    seeds=1,
)

if __name__ == "__main__":
    run_as_command(EXPERIMENT)
