"""A small reward near by and a larger one far away: which is better depends on the discount.

Ours, for the meta-controller's choice among discounts (Agent57 section 3.2): the extrinsic return of a long horizon
is `far_reward`, that of a short one 1.
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from actors.environments.gridworlds.vector_gridworld import BLACK, GREEN, WHITE, YELLOW, GridworldEnv, VectorGridworld
from agent57.config import require


def indifference_discount(near: int = 3, far: int = 30, far_reward: float = 2.0) -> float:
    """(1 / far_reward) ** (1 / (far - near)): below it the near end is worth more at the start, above it the far end.

    The start is worth gamma ** (near - 1) by one way and far_reward * gamma ** (far - 1) by the other.
    """
    return (1 / far_reward) ** (1 / (far - near))


class VectorNearOrFar(VectorGridworld):
    """A corridor from -near (reward 1) to +far (reward far_reward); either end ends the episode, which starts at 0.

    Actions: left, right. Observations: float32 (near + far + 1,), one-hot of the position, -near first.
    """

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        near: int = 3,
        far: int = 30,
        far_reward: float = 2.0,
    ) -> None:
        require(isinstance(near, int) and near >= 1, "near must be an integer of at least 1")
        require(isinstance(far, int) and far > near, "far must be an integer greater than near")
        require(isinstance(far_reward, int | float) and far_reward > 1, "far_reward must be a number greater than 1")
        self.near, self.far, self.far_reward = near, far, float(far_reward)
        length = near + far + 1
        super().__init__(num_envs, spaces.Box(0, 1, (length,), np.float32), 2, length, max_episode_steps, render_mode)
        self._one_hot = np.eye(length, dtype=np.float32)

    def _begin(self, lane: int, generator: np.random.Generator) -> int:
        return self.near

    def _move(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        arrived = self._cells + 2 * actions - 1
        at_near, at_far = arrived == 0, arrived == self.near + self.far
        return arrived, at_near + self.far_reward * at_far, at_near | at_far

    def _observe(self) -> np.ndarray:
        return self._one_hot[self._cells]

    def _picture(self, lane: int) -> np.ndarray:
        picture = np.full((1, self.near + self.far + 1, 3), BLACK, np.uint8)
        picture[0, 0], picture[0, -1] = WHITE, YELLOW
        picture[0, self._cells[lane]] = GREEN
        return picture


class NearOrFar(GridworldEnv):
    """The same, one at a time."""

    vector_class = VectorNearOrFar
