"""How a run stands at one moment, as far as it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Snapshot:
    """Counters of the run, and what its bandits and processes tell.

    ``arm_pulls`` [N] are the pulls of every arm in the bandits' windows, ``favourite_arm`` is the arm they would play
    greedily. ``replay_ratio`` is None before learning begins. ``resident_bytes`` are those of processes that do not
    report theirs with each reply.
    """

    env_frames: int
    learner_updates: int
    restarts: int
    replay_ratio: float | None
    arm_pulls: np.ndarray
    favourite_arm: int
    refused_returns: int
    resident_bytes: Mapping[str, int]
    temporary_folders: list[Path]
