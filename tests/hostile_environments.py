"""Gymnasium environments that break the rules, one kind of fault each.

`tests.hostile_environments:Hostile-v0` plays a corridor of ten steps, reward 1 for action 1, and does what its argument
``fault`` names, always or once in ``every`` steps, from step ``after`` of its life on.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Hostile(gymnasium.Env):
    """``length`` steps of four random numbers."""

    def __init__(self, fault: str = "", every: float = 1.0, after: int = 0, length: int = 10) -> None:
        self.fault, self.every, self.after, self.length = fault, float(every), after, length
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = spaces.Discrete(3)
        self._life = 0
        self._leaked: list[bytearray] = []
        self._buffer = np.zeros(4, np.float32)
        if fault == "raises in its constructor":
            raise RuntimeError("no licence for the simulator")
        if fault == "exits in its constructor":
            sys.exit(0)
        if fault == "uint8":
            self.observation_space = spaces.Box(0, 255, (4,), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._steps = 0
        if options:
            raise ValueError(f"unknown reset options {options}")
        observation = self._observation()
        return observation if self._turns("old reset") else (observation, self._info())

    def step(self, action: int) -> Any:
        if type(action) is not int:
            raise TypeError(f"action must be int, got {type(action)}")
        self._steps += 1
        self._life += 1
        if self._turns("exit"):
            sys.exit(0)
        if self._turns("interrupt"):
            raise KeyboardInterrupt
        if self._turns("raise"):
            print("the emulator looks down")
            os.write(2, b"and its library, in C\n")
            error = RuntimeError("the emulator tripped over a cable")
            error.add_note("it was the red one")
            raise error
        if self._turns("leak"):
            self._leaked.append(bytearray(os.urandom(1_000)) * 100)
        if self._turns("print"):
            print("x" * 10_000)
        reward: Any = float(action == 1)
        for name, bad in REWARDS.items():
            if self._turns(name):
                reward = bad
        ended: Any = self._steps >= self.length
        if self._turns("flag"):
            ended = None
        brought = self._observation(), reward, ended, False, self._info()
        return brought[:4] if self._turns("four values") else brought

    def _observation(self) -> Any:
        self._buffer[:] = self.np_random.uniform(-1, 1, 4)
        for name, bad in (("nan observation", np.nan), ("inf observation", -np.inf), ("huge observation", 1e30)):
            if self._turns(name):
                self._buffer[2] = bad
        if self._turns("shape"):
            return self._buffer[:3]
        if self._turns("list"):
            return self._buffer.tolist()
        if self._turns("float64"):
            return self._buffer.astype(np.float64)
        if self._turns("words"):
            return ["a", "b", "c", "d"]
        if self._turns("ragged"):
            return [[1.0], [1.0, 2.0]]
        # The environment's own buffer, which it changes in place.
        return self._buffer

    def _info(self) -> dict[str, Any]:
        if self.fault == "ragged info":
            return {"path": np.arange(self._steps % 3), "goal": 3 if self._steps < 4 else {"door": None}}
        if self.fault == "foreign revisit":
            return {"revisit": "no" if self._steps % 2 else [1, 2]}
        return {}

    def _turns(self, fault: str) -> bool:
        return fault == self.fault and self._life >= self.after and self.np_random.random() < self.every


REWARDS = {
    "nan reward": float("nan"),
    "inf reward": float("-inf"),
    "huge reward": 1e300,
    "no reward": None,
    "array reward": np.array([1.0]),
    "word reward": "1.0",
    "long reward": 10**400,
}


class AnySpaces(gymnasium.Env):
    """Has these spaces, observes samples, ends after five steps."""

    def __init__(self, observations: spaces.Space, actions: spaces.Space) -> None:
        self.observation_space, self.action_space = observations, actions

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self._steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        self._steps += 1
        return self.observation_space.sample(), 1.0, self._steps == 5, False, {}


class NoSeed(gymnasium.Env):
    """The interface of long ago: reset takes nothing."""

    observation_space = spaces.Box(-1, 1, (4,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self) -> Any:  # type: ignore[override]
        return np.zeros(4, np.float32), {}


gymnasium.register("Hostile-v0", Hostile, max_episode_steps=1000)
gymnasium.register("Unlimited-v0", Hostile, kwargs={"length": 10**9})
gymnasium.register("NoSeed-v0", NoSeed)
