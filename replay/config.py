"""Size and pace of the replay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from agent57.ranges import Range, Share, check_ranges


@dataclass(frozen=True)
class ReplayConfig:
    """Size and pace of the replay (Agent57 appendix)."""

    capacity_steps: Annotated[int, Range(at_least=1, at_most=10**12)] = 5_000_000
    """Environment steps held; the overlap of two sequences counts once."""
    max_gb: Annotated[float, Range(above=0, at_most=1e6)] = 8.0
    """Memory held, in GB of 1e9 bytes; whichever of the two limits is reached first evicts the oldest."""
    priority_exponent: Annotated[float, Range(at_least=0, at_most=10)] = 0.9
    """Sequences are drawn in proportion to priority to this power; 0 is uniform."""
    importance_exponent: Share = 0.0
    """Sequences count in the loss by their chance of being drawn to minus this power (Schaul et al. 2016); 0: all
    alike, as in Agent57."""
    min_sequences: Annotated[int, Range(at_least=1, at_most=10**9)] = 6250
    """Sequences held before learning starts."""
    replay_ratio: Annotated[float, Range(at_least=1e-4, at_most=1e4)] = 0.8
    """Trained transitions per environment step, enforced by pausing whichever side is ahead."""
    ratio_tolerance: Annotated[float, Range(at_least=0, at_most=100)] = 0.1
    """How far either side may run ahead, as a share of the steps held when learning starts."""

    def __post_init__(self) -> None:
        check_ranges(self, "replay")
