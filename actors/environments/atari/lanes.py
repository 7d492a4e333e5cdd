"""Atari games in the C++ vector environment, one of the kinds of `kinds.py`."""

from __future__ import annotations

import functools
from typing import ClassVar

import gymnasium
import numpy as np
from ale_py.vector_env import AtariVectorEnv

from actors.environments.atari.screens import AtariScreens
from actors.environments.config import EnvironmentConfig
from actors.environments.door import naming
from actors.environments.step import EnvironmentStep, numbered
from agent57.structures import EnvironmentSpec


class AtariLanes:
    """Atari games in the C++ vector environment: preprocessing as in the paper, one grey frame, no stack."""

    first_action = 0
    faults: ClassVar[dict[int, str]] = {}

    def __init__(
        self, env_id: str, rom: str, num_lanes: int, config: EnvironmentConfig, num_threads: int, render: bool
    ) -> None:
        self._env_id = env_id
        make = functools.partial(
            AtariVectorEnv,
            rom,
            num_lanes,
            num_threads=num_threads,
            max_num_frames_per_episode=config.max_frames,
            repeat_action_probability=config.sticky_actions,
            full_action_space=config.full_action_set,
            autoreset_mode=gymnasium.vector.AutoresetMode.NEXT_STEP,
            stack_num=1,
            frameskip=config.frame_skip,
            maxpool=True,
            noop_max=config.noop_max,
            episodic_life=False,
            reward_clipping=False,
            use_fire_reset=False,
        )
        rows, columns = config.screen_size
        self._vector = make(img_height=rows, img_width=columns, grayscale=True)
        self._screens = AtariScreens(env_id, config.full_action_set, make) if render else None
        actions = self._vector.single_action_space
        assert isinstance(actions, gymnasium.spaces.Discrete)
        self.spec = EnvironmentSpec((1, rows, columns), "uint8", 255.0, int(actions.n))

    @property
    def action_names(self) -> list[str]:
        return self._screens.action_names if self._screens else numbered(self.spec)

    def reset(self, seeds: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        observations, _ = self._vector.reset(seed=seeds, options={"reset_mask": lanes})
        if self._screens:
            self._screens.reset(seeds, lanes)
        return observations

    def step(self, actions: np.ndarray) -> EnvironmentStep:
        with naming(self._env_id):
            observations, rewards, terminated, truncated, _ = self._vector.step(actions)
        if self._screens:
            self._screens.step(actions, rewards, terminated | truncated)
        return EnvironmentStep(observations, rewards.astype(np.float32), terminated, truncated)

    def pictures(self) -> list[np.ndarray] | None:
        return self._screens.pictures() if self._screens else None

    def close(self) -> None:
        if self._screens:
            self._screens.close()
        self._vector.close()
        # The emulators and their threads go with the last reference.
        del self._vector.ale
