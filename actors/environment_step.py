"""What one step of all lanes brought, and what every kind of environment needs to tell it.

`environment_kinds.py` and `atari_lanes.py` make it, `environments.py` hands it on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from agent57.structures import EnvironmentSpec


@dataclass
class EnvironmentStep:
    """What one step of all lanes brought, in arrays of their own.

    ``observations`` [L, *obs] of the spec's dtype; ``rewards`` float32 [L]; ``terminated``, ``truncated`` bool [L].
    ``revisits`` bool [L]: the state that arrived had been visited before in its episode; None where the environment
    does not say.
    """

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    revisits: np.ndarray | None = None


def numbered(spec: EnvironmentSpec) -> list[str]:
    """Names of actions that have none."""
    return [str(action) for action in range(spec.num_actions)]


@contextmanager
def naming(culprit: str) -> Iterator[None]:
    """Let exceptions through with a note that ``culprit`` raised them."""
    try:
        yield
    except Exception as error:
        error.add_note(f"raised by {culprit}")
        raise
