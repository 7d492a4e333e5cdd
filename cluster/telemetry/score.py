"""What a score is, wherever one is shown: the mean return of fresh episodes of a policy that was chosen before them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SCORE_TAG = "evaluation/return"
RULE = "fresh episodes of a policy chosen before them"
"""By which results are told apart from those of earlier versions, whose episodes chose the policy that they judged."""
EPISODES_TAG = "evaluation/return_episodes"


@dataclass(frozen=True)
class Score:
    """Undiscounted, unclipped extrinsic ``returns`` of episodes that had no part in the choice of their policy."""

    returns: list[float]

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def episodes(self) -> int:
        return len(self.returns)

    @property
    def standard_error(self) -> float:
        """Of the mean, by the spread of the episodes; NaN for a single one."""
        return float(np.std(self.returns, ddof=1) / math.sqrt(self.episodes)) if self.episodes > 1 else math.nan

    def text(self, form: str = ",.1f") -> str:
        """Mean and standard error, such as 12.3 +- 0.5."""
        error = "" if math.isnan(self.standard_error) else f" +- {self.standard_error:{form}}"
        return f"{self.mean:{form}}{error}"
