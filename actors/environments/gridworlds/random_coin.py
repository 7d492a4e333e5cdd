"""A coin at a random place in an empty room: the task on which Agent57 shows why it splits the value function.

Agent57 section 4.2 and figure 5. Every episode the coin is elsewhere, so that intrinsic rewards lead everywhere.
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from actors.environments.gridworlds.vector_gridworld import BLACK, GREEN, MOVES, YELLOW, GridworldEnv, VectorGridworld
from agent57.config import require


class VectorRandomCoin(VectorGridworld):
    """Reward 1 and the end on reaching the coin; agent and coin start in two cells drawn uniformly.

    Actions: up, right, down, left; a move out of the room is none. Observations: uint8 (2, size, size), the plane of
    the agent and that of the coin.
    """

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        size: int = 15,
    ) -> None:
        # Below 5, `observation_layout` could not tell the two planes from (height, width, channels).
        require(isinstance(size, int) and size >= 5, "size must be an integer of at least 5")
        space = spaces.Box(0, 1, (2, size, size), np.uint8)
        super().__init__(num_envs, space, 4, size * size, max_episode_steps, render_mode)
        self.size = size
        self._coins = np.zeros(num_envs, np.int64)

    def _begin(self, lane: int, generator: np.random.Generator) -> int:
        agent = int(generator.integers(self.size**2))
        other = int(generator.integers(self.size**2 - 1))
        self._coins[lane] = other + (other >= agent)
        return agent

    def _move(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows, columns = np.divmod(self._cells, self.size)
        down, right = MOVES[actions].T
        rows, columns = (np.minimum(np.maximum(x, 0), self.size - 1) for x in (rows + down, columns + right))
        arrived = rows * self.size + columns
        found = arrived == self._coins
        return arrived, found.astype(np.float64), found

    def _observe(self) -> np.ndarray:
        planes = np.zeros((self.num_envs, 2, self.size**2), np.uint8)
        planes[self._lanes, 0, self._cells] = 1
        planes[self._lanes, 1, self._coins] = 1
        return planes.reshape(self.num_envs, 2, self.size, self.size)

    def _picture(self, lane: int) -> np.ndarray:
        picture = np.full((self.size**2, 3), BLACK, np.uint8)
        picture[self._coins[lane]] = YELLOW
        picture[self._cells[lane]] = GREEN
        return picture.reshape(self.size, self.size, 3)


class RandomCoin(GridworldEnv):
    """The same, one at a time."""

    vector_class = VectorRandomCoin
