"""Remember a cue down a long corridor: Bakker's T-maze, which only a memory can solve.

Bakker 2001, "Reinforcement learning with long short-term memory".
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from actors.environments.gridworlds.vector_gridworld import (
    BLACK,
    DOWN,
    GREEN,
    GREY,
    LEFT,
    RIGHT,
    UP,
    YELLOW,
    GridworldEnv,
    VectorGridworld,
)
from agent57.config import require

# What can be observed; the arms beyond the junction look like the corridor.
CUE_UP, CUE_DOWN, CORRIDOR, JUNCTION = range(4)


class VectorTMaze(VectorGridworld):
    """A corridor of ``corridor`` cells with a junction at its east end, ``corridor`` moves from the start at the west.

    Up or down at the junction ends the episode: reward 1 for the side that the cue named, -1 for the other. The cue,
    a fair coin, is observed at an episode's first step and never again. Actions: up, right, down, left; a move into a
    wall is none. Observations: float32 (4,), one-hot of what is seen. The registered limit of 200 steps suits the
    default corridor: give another beside a much longer one.
    """

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        corridor: int = 20,
    ) -> None:
        require(isinstance(corridor, int) and corridor >= 1, "corridor must be an integer of at least 1")
        # The junction comes after the corridor, then the arm above and the arm below.
        space = spaces.Box(0, 1, (4,), np.float32)
        super().__init__(num_envs, space, 4, corridor + 3, max_episode_steps, render_mode)
        self.corridor = corridor
        self._cues = np.full(num_envs, CUE_UP)
        self._one_hot = np.eye(4, dtype=np.float32)

    def _begin(self, lane: int, generator: np.random.Generator) -> int:
        self._cues[lane] = generator.integers(2)
        return 0

    def _move(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        along = self._cells + (actions == RIGHT) - (actions == LEFT)
        up, down = actions == UP, actions == DOWN
        chooses = (self._cells == self.corridor) & (up | down)
        arrived = np.where(chooses, self.corridor + 1 + down, np.minimum(np.maximum(along, 0), self.corridor))
        right_side = np.where(up, self._cues == CUE_UP, self._cues == CUE_DOWN)
        return arrived, chooses * np.where(right_side, 1.0, -1.0), chooses

    def _observe(self) -> np.ndarray:
        place = np.where(self._cells == self.corridor, JUNCTION, CORRIDOR)
        return self._one_hot[np.where(self._steps == 0, self._cues, place)]

    def _picture(self, lane: int) -> np.ndarray:
        picture = np.full((3, self.corridor + 1, 3), GREY, np.uint8)
        picture[1] = picture[:, -1] = BLACK
        picture[0 if self._cues[lane] == CUE_UP else 2, -1] = YELLOW
        arm = max(int(self._cells[lane]) - self.corridor, 0)
        picture[(1, 0, 2)[arm], min(int(self._cells[lane]), self.corridor)] = GREEN
        return picture


class TMaze(GridworldEnv):
    """The same, one at a time."""

    vector_class = VectorTMaze
