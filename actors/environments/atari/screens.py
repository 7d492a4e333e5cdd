"""Colour pictures of Atari games that are played in the training's grey preprocessing.

The emulator's vector environment shows either what the agent sees or colours, not both. So each game is played twice,
with the same seeds and actions: the second one keeps the screen as it is. Made by `contract.py` on request, for
videos.
"""

from __future__ import annotations

from collections.abc import Callable

import gymnasium
import numpy as np
from ale_py.vector_env import AtariVectorEnv


class AtariScreens:
    """The twin of a vector environment; ``make(**look)`` must make it with all that decides how the game goes alike."""

    def __init__(self, env_id: str, full_action_set: bool, make: Callable[..., AtariVectorEnv]) -> None:
        self._env_id = env_id
        single = gymnasium.make(env_id, full_action_space=full_action_set)
        height, width, _ = single.observation_space.shape  # type: ignore[misc]
        self.action_names = list(single.unwrapped.get_action_meanings())  # type: ignore[attr-defined]
        single.close()
        self._vector = make(img_height=height, img_width=width, grayscale=False)
        self._frames = np.zeros((self._vector.num_envs, height, width, 3), np.uint8)

    def reset(self, seeds: np.ndarray, lanes: np.ndarray) -> None:
        observations, _ = self._vector.reset(seed=seeds, options={"reset_mask": lanes})
        self._frames = observations[:, -1]

    def step(self, actions: np.ndarray, rewards: np.ndarray, ended: np.ndarray) -> None:
        """Follow one step; RuntimeError if the game went another way than in the original."""
        observations, own_rewards, terminated, truncated, _ = self._vector.step(actions)
        if not (np.array_equal(own_rewards, rewards) and np.array_equal(terminated | truncated, ended)):
            raise RuntimeError(f"{self._env_id}: the picture no longer shows the game that is played")
        self._frames = observations[:, -1]

    def pictures(self) -> list[np.ndarray]:
        """The screens of the last observations: uint8 [H, W, 3], one per lane."""
        return [frame.copy() for frame in self._frames]

    def close(self) -> None:
        self._vector.close()
        del self._vector.ale
