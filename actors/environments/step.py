"""What one step of all lanes brought, and what every kind of environment needs to tell it.

`kinds.py` and `atari/lanes.py` make it, `contract.py` hands it on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agent57.structures import EnvironmentSpec


@dataclass
class EnvironmentStep:
    """What one step of all lanes brought, in arrays of their own.

    ``observations`` [L, *obs] of the spec's dtype; ``rewards`` float32 [L]; ``terminated``, ``truncated`` bool [L].
    ``revisits`` bool [L]: the state that arrived had been visited before in its episode; None where the environment
    does not say. ``abandoned`` bool [L]: the lane's episode broke off by a fault of the environment, and what arrived
    is the first observation of a new one; None where none did.
    """

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    revisits: np.ndarray | None = None
    abandoned: np.ndarray | None = None


def numbered(spec: EnvironmentSpec) -> list[str]:
    """Names of actions that have none."""
    return [str(action) for action in range(spec.num_actions)]
