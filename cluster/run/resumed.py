"""What may not change over a resume: whatever the networks, the replay and the bandits of a checkpoint were made with.

Lanes, workers, shards, learners, rates, limits and periods may. Asked by ``launch.py train --resume``.
"""

from __future__ import annotations

from cluster.run.config import TrainConfig, flat_fields
from cluster.run.errors import UserError

FIXED = (
    *("env", "environment", "network", "family", "sequence", "bandit.scope", "intrinsic.novelty"),
    *("loss.td_scale", "learner.optimizer"),
)
"""Fields and whole sections that give stored sequences, weights and bandits their shape or their meaning."""
FREE = ("environment.noop_max", "environment.max_frames", "environment.max_episode_steps")
"""Exceptions in those sections: how an episode begins and when it is cut off."""


def refuse_other_agent(saved: TrainConfig, config: TrainConfig) -> None:
    """UserError if ``config`` asks for what a checkpoint made with ``saved`` cannot follow."""
    before, after = flat_fields(saved), flat_fields(config)
    for name in before:
        fixed = any(name == path or name.startswith(f"{path}.") for path in FIXED) and name not in FREE
        if fixed and before[name] != after[name]:
            raise UserError(
                f"--{name.replace('_', '-')} cannot change over a resume (the run has {before[name]}, asked for is "
                f"{after[name]}): start a new run for that."
            )
