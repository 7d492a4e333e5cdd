"""An episode's observations at a bounded number of moments, spread over the whole of it.

The evaluator keeps one of its first lane, for a moving picture of how the agent plays.
"""

from __future__ import annotations

import numpy as np


class EpisodeClip:
    """Every s-th observation of an episode; s doubles whenever more than ``max_frames`` would be held."""

    def __init__(self, max_frames: int = 128) -> None:
        self.max_frames = max_frames
        self.restart()

    def restart(self) -> None:
        """Forget everything: an episode begins."""
        self.stride, self._seen = 1, 0
        self._frames: list[np.ndarray] = []

    def add(self, observation: np.ndarray) -> None:
        """Show the next observation [*obs] of the episode."""
        if self._seen % self.stride == 0:
            if len(self._frames) == self.max_frames:
                self._frames, self.stride = self._frames[::2], 2 * self.stride
            if self._seen % self.stride == 0:
                self._frames.append(observation.copy())
        self._seen += 1

    def frames(self) -> np.ndarray | None:
        """What is held, [n, *obs], or None if that is nothing."""
        return np.stack(self._frames) if self._frames else None
