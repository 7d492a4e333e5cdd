"""Any Gymnasium environment but Atari games and the project's gridworlds: L of them stepped one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from actors.environments.door import Refused, blame, flag_of, naming, parts, revisit_of, reward_of
from actors.environments.step import EnvironmentStep, numbered
from actors.environments.supported_spaces import UnsupportedEnvironment, num_actions, observation_layout
from agent57.structures import EnvironmentSpec


class GymnasiumLanes:
    """``make`` makes one environment; with ``renders`` they can draw themselves.

    Neither Gymnasium's vector environments nor a package's own are used: those merge the infos of all lanes, fall with
    any lane that does, and seed, truncate and reset each in its own way. ``faults`` says, by lane, what could not be
    used of what the last reset or step brought; such a lane begins a new episode with the next step.
    """

    def __init__(self, env_id: str, num_lanes: int, make: Callable[[], gymnasium.Env], renders: bool) -> None:
        self._env_id, self._renders = env_id, renders
        self._environments = [make() for _ in range(num_lanes)]
        first = self._environments[0]
        space, actions = first.observation_space, first.action_space
        if any((other.observation_space, other.action_space) != (space, actions) for other in self._environments):
            raise UnsupportedEnvironment(f"{env_id} has other spaces each time it is made: give it fixed arguments")
        shape, dtype, scale, self._convert = observation_layout(env_id, space)
        self.spec = EnvironmentSpec(shape, dtype, scale, num_actions(env_id, actions))
        self.first_action = int(actions.start)  # type: ignore[attr-defined]
        self.faults: dict[int, str] = {}
        self._observations = np.zeros((num_lanes, *shape), dtype)
        self._ended = [False] * num_lanes
        self._steps = [0] * num_lanes

    @property
    def action_names(self) -> list[str]:
        return numbered(self.spec)

    def reset(self, seeds: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        self.faults = {}
        for lane, seed in zip(np.flatnonzero(lanes).tolist(), seeds.tolist(), strict=True):
            self._begin(lane, {"seed": seed})
        return self._observations.copy()

    def step(self, actions: np.ndarray) -> EnvironmentStep:
        self.faults = {}
        lanes = len(actions)
        rewards = np.zeros(lanes, np.float32)
        terminated, truncated, revisits = np.zeros((3, lanes), np.bool_)
        tells = False
        # As Python's own integers: some environments insist on them.
        for lane, action in enumerate((actions + self.first_action).tolist()):
            if self._ended[lane]:
                info = self._begin(lane, {})
            else:
                self._steps[lane] += 1
                try:
                    brought = self._environments[lane].step(action)
                except BaseException as error:  # noqa: BLE001
                    blame(f"{self._env_id}, lane {lane}, step {self._steps[lane]} of its episode", error)
                info = None
                try:
                    observation, reward, ends, cut, info = parts(
                        brought, 5, "step", "observation, reward, terminated, truncated, info"
                    )
                    rewards[lane] = reward_of(reward)
                    terminated[lane] = flag_of(ends, "terminated")
                    truncated[lane] = flag_of(cut, "truncated")
                    self._observations[lane] = self._convert(observation)
                    self._ended[lane] = bool(terminated[lane] or truncated[lane])
                except Refused as refused:
                    self._refuse(lane, refused)
            revisit = revisit_of(info)
            if revisit is not None:
                tells, revisits[lane] = True, revisit
        return EnvironmentStep(self._observations.copy(), rewards, terminated, truncated, revisits if tells else None)

    def pictures(self) -> list[np.ndarray] | None:
        if not self._renders:
            return None
        with naming(f"drawing {self._env_id}"):
            return [np.asarray(environment.render()) for environment in self._environments]

    def close(self) -> None:
        for environment in self._environments:
            # Whatever it says now, it is not needed any more.
            with contextlib.suppress(Exception, SystemExit):
                environment.close()

    def _begin(self, lane: int, seed: dict[str, Any]) -> Any:
        """Begin an episode; returns its info."""
        self._steps[lane] = 0
        try:
            # Without options: some environments refuse any that they do not know.
            brought = self._environments[lane].reset(**seed)
        except BaseException as error:  # noqa: BLE001
            blame(f"{self._env_id}, lane {lane}, at its reset,", error)
        try:
            observation, info = parts(brought, 2, "reset", "observation, info")
            self._observations[lane] = self._convert(observation)
            self._ended[lane] = False
            return info
        except Refused as refused:
            self._refuse(lane, refused)
            return None

    def _refuse(self, lane: int, refused: Refused) -> None:
        self.faults[lane] = str(refused)
        self._ended[lane] = True
