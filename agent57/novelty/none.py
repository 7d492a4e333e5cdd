"""No novelty: intrinsic rewards are 0, and nothing is computed or trained for them (an ablation)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from agent57.networks import Agent57Networks
from agent57.novelty.contract import Earned, LaneNovelty, Novelty


class NoNovelty(Novelty):
    """Pays nothing."""

    def lanes(self, networks: Agent57Networks, num_lanes: int) -> LaneNovelty:
        return _NothingNew()


class _NothingNew(LaneNovelty):
    def earn(self, observations: Tensor) -> Earned:
        return Earned(np.zeros(len(observations), np.float32))
