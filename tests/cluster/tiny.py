"""A configuration of seconds: the whole agent on a tiny chain."""

from __future__ import annotations

import dataclasses

from cluster.run.config import TrainConfig
from cluster.run.presets import SMOKE


def tiny_config(**changes: object) -> TrainConfig:
    """The smoke preset on the fake chain environment, with top-level fields changed."""
    small = {
        "env": "tests.fakes:Chain-v0",
        "serial": True,
        "network": dataclasses.replace(SMOKE.network, torso_size=16, lstm_size=16, head_size=16),
        "evaluation": dataclasses.replace(SMOKE.evaluation, period_env_frames=500),
        "log_seconds": 0.2,
    }
    return dataclasses.replace(SMOKE, **(small | changes))
