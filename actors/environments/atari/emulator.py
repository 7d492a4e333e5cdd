"""Atari games on the emulator itself, for what its vector environment does not offer: mode, difficulty, RAM.

Frame for frame the same games as in `atari/lanes.py` for equal seeds and actions, to the last bit
(tests/actors/test_atari_emulator.py), at nine tenths of the rate: lanes are stepped one after the other, from
Python. So it is taken only where it is needed, by `kinds.py`.
"""

from __future__ import annotations

from typing import ClassVar

import ale_py
import numpy as np
from ale_py import roms

from actors.environments.atari.area_resize import AreaResize
from actors.environments.config import EnvironmentConfig
from actors.environments.door import naming
from actors.environments.step import EnvironmentStep, numbered
from actors.environments.supported_spaces import UnsupportedEnvironment
from agent57.structures import EnvironmentSpec


class Emulator:
    """One game with the paper's preprocessing and next-step autoreset (see `contract.py`).

    UnsupportedEnvironment for a mode or a difficulty that the game does not have. ``coloured`` lets `picture` work.
    """

    def __init__(self, env_id: str, rom: str, config: EnvironmentConfig, coloured: bool) -> None:
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        path = roms.get_rom_path(rom)
        if path is None:
            raise UnsupportedEnvironment(f"{env_id} has no game file in ale-py")
        self._config, self._rom = config, path
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", config.sticky_actions)
        self.ale.loadROM(self._rom)
        _refuse_unknown(env_id, "mode", config.mode, self.ale.getAvailableModes())
        _refuse_unknown(env_id, "difficulty", config.difficulty, self.ale.getAvailableDifficulties())
        self.actions = self.ale.getLegalActionSet() if config.full_action_set else self.ale.getMinimalActionSet()
        height, width = self.ale.getScreenDims()
        # The last two frames of a step, whose maximum is seen. An episode that ends within a step leaves what was
        # there, as in the vector environment.
        self._grey = np.zeros((2, height, width), np.uint8)
        self._colours = np.zeros((2, height, width, 3), np.uint8) if coloured else None
        self._resize = AreaResize((height, width), *config.screen_size)
        self._draws = np.random.RandomState(0)
        self._frames = 0
        self.terminated = self.truncated = False

    def reset(self, seed: int | None = None) -> np.ndarray:
        """The first observation [rows, columns] of an episode; without ``seed`` its chances go on from the last one."""
        if seed is not None:
            self.ale.setInt("random_seed", seed)
            self._draws = np.random.RandomState(seed)
            # Only then does the emulator take the seed, and forget the last game.
            self.ale.loadROM(self._rom)
            if self._config.mode is not None:
                self.ale.setMode(self._config.mode)
            if self._config.difficulty is not None:
                self.ale.setDifficulty(self._config.difficulty)
        self.ale.reset_game()
        for _ in range(_draw_below(self._config.noop_max, self._draws)):
            self.ale.act(ale_py.Action.NOOP)
            if self.ale.game_over():
                self.ale.reset_game()
        self._keep(0)
        self._grey[1] = 0
        if self._colours is not None:
            self._colours[1] = 0
        self._frames, self.terminated, self.truncated = 0, False, False
        return self._seen()

    def step(self, action: int) -> tuple[np.ndarray, int]:
        """(observation [rows, columns], reward) of one action; a reset if the episode had ended."""
        if self.terminated or self.truncated:
            return self.reset(), 0
        reward = 0
        for left in range(self._config.frame_skip, 0, -1):
            reward += self.ale.act(self.actions[action])
            self._frames += 1
            self.terminated = self.ale.game_over()
            self.truncated = self._frames >= self._config.max_frames and not self.terminated
            if self.terminated or self.truncated:
                break
            if left <= 2:
                self._keep(left - 1)
        return self._seen(), reward

    def picture(self) -> np.ndarray:
        """What the last observation looks like in colours, uint8 [H, W, 3]."""
        assert self._colours is not None
        return self._colours[0].copy()

    def _keep(self, place: int) -> None:
        self.ale.getScreenGrayscale(self._grey[place])
        if self._colours is not None:
            self.ale.getScreenRGB(self._colours[place])

    def _seen(self) -> np.ndarray:
        np.maximum(self._grey[0], self._grey[1], out=self._grey[0])
        if self._colours is not None:
            np.maximum(self._colours[0], self._colours[1], out=self._colours[0])
        return self._resize(self._grey[0])


class EmulatorLanes:
    """L games on emulators of their own; see the module."""

    first_action = 0
    faults: ClassVar[dict[int, str]] = {}

    def __init__(self, env_id: str, rom: str, num_lanes: int, config: EnvironmentConfig, render: bool) -> None:
        self._env_id, self._renders = env_id, render
        self._emulators = [Emulator(env_id, rom, config, render) for _ in range(num_lanes)]
        actions = self._emulators[0].actions
        self.spec = EnvironmentSpec((1, *config.screen_size), "uint8", 255.0, len(actions))
        self.action_names = [action.name for action in actions] if render else numbered(self.spec)
        self._observations = np.zeros((num_lanes, *self.spec.observation_shape), np.uint8)

    def reset(self, seeds: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        self._observations = self._observations.copy()
        for lane, seed in zip(np.flatnonzero(lanes), seeds, strict=True):
            self._observations[lane, 0] = self._emulators[lane].reset(int(seed))
        return self._observations

    def step(self, actions: np.ndarray) -> EnvironmentStep:
        self._observations = np.empty_like(self._observations)
        rewards = np.zeros(len(actions), np.float32)
        for lane, (emulator, action) in enumerate(zip(self._emulators, actions, strict=True)):
            with naming(f"{self._env_id}, lane {lane}"):
                self._observations[lane, 0], rewards[lane] = emulator.step(int(action))
        ended = np.array([(emulator.terminated, emulator.truncated) for emulator in self._emulators])
        return EnvironmentStep(self._observations, rewards, ended[:, 0].copy(), ended[:, 1].copy())

    def ram(self) -> np.ndarray:
        """The emulators' memories, uint8 [L, 128], as the last observations found them."""
        return np.stack([emulator.ale.getRAM() for emulator in self._emulators])

    def pictures(self) -> list[np.ndarray] | None:
        return [emulator.picture() for emulator in self._emulators] if self._renders else None

    def close(self) -> None:
        self._emulators.clear()


def _refuse_unknown(env_id: str, what: str, wanted: int | None, known: list[int]) -> None:
    if wanted is not None and wanted not in known:
        values = ", ".join(map(str, known))
        raise UnsupportedEnvironment(f"{env_id} has no {what} {wanted}: --environment.{what} is one of {values}")


def _draw_below(bound: int, draws: np.random.RandomState) -> int:
    """A whole number below ``bound`` (0 if that is 0), drawn as C++'s uniform_int_distribution over mt19937 does.

    Lemire's method, as in libstdc++: the high half of a product of 32 bits each, rejected where that is not even.
    ``draws`` seeded with an int gives the same 32 bits as mt19937 with that seed.
    """
    if bound <= 1:
        return 0
    while True:
        product = int.from_bytes(draws.bytes(4), "little") * bound
        if product % 2**32 >= 2**32 % bound:
            return product >> 32
