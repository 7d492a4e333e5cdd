"""What tests read from a key: which insertion it names."""

from __future__ import annotations

import numpy as np

from replay.prioritized import NUMBER_BITS, SampledSequences


def numbers(sampled: SampledSequences) -> np.ndarray:
    """Of each sequence drawn, how many were inserted before it in its replay, int64 [B]."""
    return sampled.keys % 2**NUMBER_BITS
