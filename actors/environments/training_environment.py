"""An environment as training sees it, behind Gymnasium's usual interface: for using an exported policy.

Atari games get the paper's preprocessing from the same emulator code as in training.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from actors.environments.contract import EnvironmentConfig
from actors.environments.door import bad_values, refuse_faults
from actors.environments.kinds import make_lanes


class TrainingEnvironment(gymnasium.Env):
    """One lane of ``env_id``: observations in the layout of the networks, actions as the environment numbers them.

    What is not finite, or not as the spaces say, raises EnvironmentFault (`door.py`). ``render_mode`` "rgb_array" lets
    `render` return what is seen, in colours (None: not drawn).
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium's name and type)

    def __init__(self, env_id: str, config: EnvironmentConfig, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError("render_mode must be rgb_array or None")
        self.render_mode = render_mode
        self._env_id, self._steps = env_id, 0
        self._lanes = make_lanes(env_id, 1, config, num_threads=1, render=render_mode is not None)
        spec = self._lanes.spec
        low, high = (0, 255) if spec.observation_dtype == "uint8" else (-np.inf, np.inf)
        self.observation_space = spaces.Box(low, high, spec.observation_shape, np.dtype(spec.observation_dtype).type)
        self.action_space = spaces.Discrete(spec.num_actions, start=self._lanes.first_action)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        # Without a seed the generator goes on from the last one.
        episode_seed = int(self.np_random.integers(2**31 - 1)) if seed is None else seed
        observations = self._lanes.reset(np.array([episode_seed]), np.ones(1, np.bool_))
        self._steps = 0
        refuse_faults(self._env_id, 0, self._lanes.faults | bad_values(observations))
        return observations[0], {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if not self.action_space.contains(action):
            raise ValueError(f"{action} is not an action of {self.action_space}")
        result = self._lanes.step(np.array([action]) - self._lanes.first_action)
        self._steps += 1
        refuse_faults(self._env_id, self._steps, self._lanes.faults | bad_values(result.observations, result.rewards))
        ended = bool(result.terminated[0]), bool(result.truncated[0])
        return result.observations[0], float(result.rewards[0]), *ended, {}

    def render(self) -> np.ndarray | None:
        pictures = self._lanes.pictures()
        return None if pictures is None else pictures[0]

    def close(self) -> None:
        self._lanes.close()
