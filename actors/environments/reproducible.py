"""Episodes as functions of (seed, actions), so that a serial run can be saved and continued bit for bit.

No emulator state is stored. Each lane remembers the seed of its current episode and the actions played in it;
restoring plays them again. Ours, not the paper's. Used by `actors/environments/contract.py`.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Lanes(Protocol):
    """L environments stepped together, with next-step autoreset."""

    def reset(self, seeds: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """Observations [L, *obs] after episodes begin in ``lanes`` (bool [L]) from ``seeds`` [lanes.sum()].

        The rows of other lanes mean nothing.
        """

    def step(self, actions: np.ndarray) -> Any:
        """An object with ``observations``, ``terminated`` and ``truncated``, one row per lane."""


class EpisodeHistory:
    """For each lane: how many episodes it began, the current one's seed, and the actions played in it."""

    def __init__(self, seed: int, num_lanes: int) -> None:
        self.seed = seed
        self.episodes = np.zeros(num_lanes, np.int64)
        self.episode_seeds = np.zeros(num_lanes, np.int64)
        self.actions: list[list[int]] = [[] for _ in range(num_lanes)]

    def begin(self, lanes: np.ndarray) -> np.ndarray:
        """Seeds, int64 [lanes.sum()], of the episodes that now begin in ``lanes`` (bool [L])."""
        for lane in np.flatnonzero(lanes):
            sequence = np.random.SeedSequence(self.seed, spawn_key=(int(lane), int(self.episodes[lane])))
            # 31 bits: the emulator takes a non-negative C int.
            self.episode_seeds[lane] = sequence.generate_state(1)[0] >> 1
            self.actions[lane] = []
        self.episodes += lanes
        return self.episode_seeds[lanes]

    def record(self, actions: np.ndarray) -> None:
        """Note the actions [L] of one step; `begin` forgets those of lanes that were only reset by it."""
        for lane, action in enumerate(actions):
            self.actions[lane].append(int(action))

    def replay(self, environments: Lanes) -> tuple[np.ndarray, np.ndarray]:
        """(observations [L, *obs], ended bool [L]) after every lane has played its current episode again.

        All lanes step together and finish together, so a lane with n actions begins n steps before the end;
        what it does until then is thrown away by its seeded reset.
        """
        lengths = np.array([len(actions) for actions in self.actions])
        longest = int(lengths.max())
        schedule = np.zeros((longest, len(lengths)), np.int64)
        for lane, actions in enumerate(self.actions):
            schedule[longest - len(actions) :, lane] = actions
        observations = environments.reset(self.episode_seeds, np.ones(len(lengths), np.bool_))
        ended = np.zeros(len(lengths), np.bool_)
        for played in range(1, longest + 1):
            result = environments.step(schedule[played - 1])
            observations, ended = result.observations, result.terminated | result.truncated
            begins = lengths == longest - played
            if begins.any():
                observations[begins] = environments.reset(self.episode_seeds[begins], begins)[begins]
                ended &= ~begins
        return observations, ended

    def state_dict(self) -> dict[str, Any]:
        """Everything; ``actions`` of all lanes are joined into one array, cut by ``lengths``."""
        return {
            "seed": self.seed,
            "episodes": self.episodes.copy(),
            "episode_seeds": self.episode_seeds.copy(),
            "lengths": np.array([len(actions) for actions in self.actions], np.int64),
            "actions": np.array([action for actions in self.actions for action in actions], np.int64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self.seed = state["seed"]
        self.episodes = state["episodes"].copy()
        self.episode_seeds = state["episode_seeds"].copy()
        pieces = np.split(state["actions"], np.cumsum(state["lengths"])[:-1])
        self.actions = [piece.tolist() for piece in pieces]
