"""A first try of an environment, before anything is planned: one lane, its reset and a few steps."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from actors.environments.contract import EnvironmentConfig
from actors.environments.door import EnvironmentFault, bad_values, refuse_faults
from actors.environments.kinds import KindOfLanes, has_step_limit, make_lanes
from actors.environments.supported_spaces import UnsupportedEnvironment
from agent57.structures import EnvironmentSpec

ATTEMPTS = 3
"""An environment that fails now and then is no reason to refuse it; one that fails every time is."""
STEPS = 100
"""At most, of one attempt."""
SECONDS = 1.0
"""After which an attempt ends, steps or no steps."""


@dataclass(frozen=True)
class Trial:
    """What a trial found: the spec, and whether episodes ``may_last``, having neither a limit nor ended so far.

    ``first_action`` is what the environment itself calls action 0.
    """

    spec: EnvironmentSpec
    may_last: bool
    first_action: int


def try_environment(env_id: str, config: EnvironmentConfig) -> Trial:
    """Make one environment and play it with random actions; raises UnsupportedEnvironment if it cannot be used."""
    lanes = make_lanes(env_id, 1, config, num_threads=1)
    first: EnvironmentFault | None = None
    try:
        for attempt in range(ATTEMPTS):
            try:
                ended = _play(env_id, lanes, attempt)
                may_last = not ended and not has_step_limit(env_id, config)
                return Trial(lanes.spec, may_last, lanes.first_action)
            except EnvironmentFault as fault:
                first = first or fault
            except KeyboardInterrupt:
                raise UnsupportedEnvironment(f"the trial of {env_id} was interrupted") from None
    finally:
        lanes.close()
    raise UnsupportedEnvironment(str(first).replace(", lane 0", "")) from first


def _play(env_id: str, lanes: KindOfLanes, seed: int) -> bool:
    """Play until an episode has ended and the next begun; returns whether it came so far."""
    rng = np.random.default_rng(seed)
    deadline = time.monotonic() + SECONDS
    observations = lanes.reset(np.array([seed]), np.ones(1, np.bool_))
    refuse_faults(env_id, 0, lanes.faults | bad_values(observations))
    ended = False
    for step in range(1, STEPS + 1):
        result = lanes.step(rng.integers(lanes.spec.num_actions, size=1))
        refuse_faults(env_id, step, lanes.faults | bad_values(result.observations, result.rewards))
        if ended:
            return True
        ended = bool(result.terminated[0] or result.truncated[0])
        if time.monotonic() > deadline:
            break
    return ended
