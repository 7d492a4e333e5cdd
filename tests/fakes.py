"""Tiny Gymnasium environments, reached by import string: `tests.fakes:Chain-v0`.

Registered below with default arguments; a test that needs others registers an id of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Chain(gymnasium.Env):
    """A corridor of ``length`` cells: start at the left end, reward 1 and the end at the right one.

    Action 1 moves right, 0 left; one-hot float32 observations; truncated after 4 * length steps. Random play
    reaches the end in 4 of 10 episodes if there are 8 cells, in 2 of 10 if there are 12.
    """

    def __init__(self, length: int = 8) -> None:
        self.length = length
        self.observation_space = spaces.Box(0, 1, (length,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._cell, self._steps = 0, 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._steps += 1
        self._cell = max(0, self._cell + (1 if action == 1 else -1))
        terminated = self._cell == self.length - 1
        truncated = not terminated and self._steps >= 4 * self.length
        return self._observation(), float(terminated), terminated, truncated, {}

    def _observation(self) -> np.ndarray:
        return np.eye(self.length, dtype=np.float32)[self._cell]


class TinyMaze(gymnasium.Env):
    """A 7 x 7 maze; reward 1 at the goal, 50 steps at most.

    Actions: up, right, down, left. Observations: uint8 (7, 7, 3) with wall, agent and goal channels of 0 or 255.
    The shortest way takes 9 steps; random play finds the goal in one episode of ten.
    """

    MAZE = (
        "S.#....",
        "#.#.##.",
        "..#..#.",
        ".##.##.",
        "...G.#.",
        ".###...",
        "...#.#.",
    )
    MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))

    def __init__(self, max_steps: int = 50) -> None:
        self.max_steps = max_steps
        self.observation_space = spaces.Box(0, 255, (7, 7, 3), np.uint8)
        self.action_space = spaces.Discrete(4)
        cells = np.array([list(row) for row in self.MAZE])
        self._walls, self._goal = cells == "#", tuple(np.argwhere(cells == "G")[0])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._position, self._steps = (0, 0), 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._steps += 1
        row, column = np.add(self._position, self.MOVES[action])
        if 0 <= row < 7 and 0 <= column < 7 and not self._walls[row, column]:
            self._position = (row, column)
        terminated = self._position == self._goal
        truncated = not terminated and self._steps >= self.max_steps
        return self._observation(), float(terminated), bool(terminated), truncated, {}

    def _observation(self) -> np.ndarray:
        observation = np.zeros((7, 7, 3), np.uint8)
        observation[..., 0] = 255 * self._walls
        observation[(*self._position, 1)] = 255
        observation[(*self._goal, 2)] = 255
        return observation


class Noise(gymnasium.Env):
    """One step, whatever action; its reward is drawn from a standard normal distribution."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action: int) -> Any:
        return np.zeros(3, np.float32), float(self.np_random.normal()), True, False, {}


class Counter(gymnasium.Env):
    """Counts its steps, for tests of what belongs to which step.

    Observation (float32): [t, tag of the episode, its length, 1 if it ends by truncation]. The reward that arrives
    with observation t is t. The tag and the episode's (length, truncates) out of ``endings`` are drawn at reset.
    """

    def __init__(self, endings: tuple[tuple[int, bool], ...] = ((3, False), (5, True), (1, False))) -> None:
        self.endings = endings
        self.observation_space = spaces.Box(0, np.inf, (4,), np.float32)
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._steps, self._tag = 0, int(self.np_random.integers(1_000_000))
        self._length, self._truncates = self.endings[self.np_random.integers(len(self.endings))]
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._steps += 1
        ends = self._steps >= self._length
        return self._observation(), float(self._steps), ends and not self._truncates, ends and self._truncates, {}

    def _observation(self) -> np.ndarray:
        return np.array([self._steps, self._tag, self._length, self._truncates], np.float32)


class Spaces(gymnasium.Env):
    """Has any spaces; observes a sample of its space, rewards each action with its own number, never ends."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        return self.observation_space.sample(), float(action), False, False, {}


class Raising(Chain):
    """A chain that raises RuntimeError at step ``steps`` of an episode."""

    def __init__(self, steps: int = 3) -> None:
        super().__init__()
        self.steps = steps

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self._steps + 1 >= self.steps:
            raise RuntimeError("the emulator is on fire")
        return super().step(action)


class Faulty(Chain):
    """A chain that breaks once: when the file named by ``FAULT_FILE`` appears, one environment takes it away, and
    then raises RuntimeError or hangs, as the file says.
    """

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        path = os.environ.get("FAULT_FILE", "")
        if path and os.path.exists(path):
            taken = f"{path}.{os.getpid()}"
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, taken)
                with open(taken) as file:
                    fault = file.read()
                if fault == "hang":
                    time.sleep(3600)
                raise RuntimeError("the emulator caught fire once")
        return super().step(action)


class Unrepeatable(Chain):
    """A chain whose observations ignore the seed: no two are ever equal."""

    CLOCK = itertools.count()

    def _observation(self) -> np.ndarray:
        return np.full(self.length, next(self.CLOCK), np.float32)


_IMAGE = spaces.Box(0, 255, (8, 8, 3), np.uint8)
_VECTOR = spaces.Box(-1, 1, (3,), np.float32)

gymnasium.register("Chain-v0", Chain)
gymnasium.register("Noise-v0", Noise, max_episode_steps=1)
gymnasium.register("LongChain-v0", Chain, kwargs={"length": 12})
gymnasium.register("TinyMaze-v0", TinyMaze)
gymnasium.register("Counter-v0", Counter)
gymnasium.register("Raising-v0", Raising)
gymnasium.register("Unrepeatable-v0", Unrepeatable)
gymnasium.register("Faulty-v0", Faulty)
gymnasium.register(
    "ContinuousAction-v0",
    Spaces,
    kwargs={"observation_space": _VECTOR, "action_space": spaces.Box(-1, 1, (2,), np.float32)},
)
gymnasium.register(
    "DictObservation-v0",
    Spaces,
    kwargs={
        "observation_space": spaces.Dict({"image": _IMAGE, "vector": _VECTOR}),
        "action_space": spaces.Discrete(2),
    },
)
