"""L environments stepped together behind one contract, whatever they are: Atari games or Gymnasium ids.

Agent57 appendix (preprocessing). `actors/lanes.py` steps them; the command line asks `environment_spec` whether
an environment can be used before it starts any process.

**Next-step autoreset.** The step that ends an episode returns its final observation. The next step ignores that
lane's action and returns the first observation of a new episode with reward 0 and both flags False: it is a
reset, not a transition, and must not be learned from.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from actors.environments.atari.emulator import EmulatorLanes
from actors.environments.config import EnvironmentConfig
from actors.environments.door import Patience, bad_values, sentence
from actors.environments.kinds import atari_rom, make_lanes
from actors.environments.reproducible import EpisodeHistory
from actors.environments.step import EnvironmentStep
from actors.environments.supported_spaces import UnsupportedEnvironment
from agent57.config import require
from agent57.structures import EnvironmentSpec

__all__ = [
    "EnvironmentConfig",
    "EnvironmentStep",
    "LaneEnvironments",
    "UnsupportedEnvironment",
    "atari_rom",
    "environment_spec",
    "frames_per_step",
]


def environment_spec(env_id: str, config: EnvironmentConfig) -> EnvironmentSpec:
    """Shapes of the environment, found by making one; raises UnsupportedEnvironment if it cannot be used."""
    lanes = make_lanes(env_id, 1, config, num_threads=1)
    lanes.close()
    return lanes.spec


def frames_per_step(env_id: str, config: EnvironmentConfig) -> int:
    """Emulator frames per environment step: the frame skip on Atari, 1 elsewhere."""
    return 1 if atari_rom(env_id) is None else config.frame_skip


class LaneEnvironments:
    """L environments of one worker, with next-step autoreset (see the module).

    ``env_id`` is a Gymnasium id, or `module:EnvId` to import the module that registers it. Atari ids carry settings
    of their own (`ALE/Pong-v5`: sticky actions of 0.25); ``config`` overrides them all. Seeds are given once, at the
    first reset; with ``reproducible`` every episode gets its own (an Atari reset then takes 80 ms instead of 4), and
    `state_dict` works. ``num_threads`` are the emulator's; the project's gridworlds are stepped together in numpy,
    other environments one after the other. ``render`` lets `pictures` show what happens, ``with_ram`` lets `ram` read
    the memory of an Atari game.

    **Faults.** What is not finite, or not of the spec's shape and type, gets no further than here: the lane's episode
    breaks off, another begins at once (``abandoned`` of the step), and `take_faults` tells. Where that happens again
    and again EnvironmentFault is raised; an exception out of an environment becomes EnvironmentRaised. Both name the
    environment and, where lanes are stepped one after the other, lane and step.
    """

    def __init__(
        self,
        env_id: str,
        num_lanes: int,
        seed: int,
        config: EnvironmentConfig,
        reproducible: bool = False,
        num_threads: int = 1,
        render: bool = False,
        with_ram: bool = False,
    ) -> None:
        self.env_id, self.num_lanes, self.reproducible = env_id, num_lanes, reproducible
        self._lanes = make_lanes(env_id, num_lanes, config, num_threads, render, with_ram)
        self.spec = self._lanes.spec
        self._history = EpisodeHistory(seed, num_lanes)
        self._patience = Patience(num_lanes)
        self._faults: list[str] = []
        self._observations = np.zeros((num_lanes, *self.spec.observation_shape), self.spec.observation_dtype)
        self._ended = np.zeros(num_lanes, np.bool_)

    def reset(self) -> np.ndarray:
        """First observations [L, *obs] of new episodes in all lanes; called again, it abandons the current ones."""
        everywhere = np.ones(self.num_lanes, np.bool_)
        self._observations = self._lanes.reset(self._history.begin(everywhere), everywhere)
        self._patience.restart()
        self._begin_anew(self._observations, self._lanes.faults | bad_values(self._observations))
        self._ended = ~everywhere
        return self._observations

    def step(self, actions: np.ndarray) -> EnvironmentStep:
        """Result of one action per lane, int64 [L]; an action out of range raises ValueError."""
        # The emulator's threads never answer an action they do not know.
        if not ((actions >= 0) & (actions < self.spec.num_actions)).all():
            raise ValueError(f"{self.env_id} has actions 0 to {self.spec.num_actions - 1}, got {actions}")
        result = self._lanes.step(actions)
        faults = self._lanes.faults
        if self.reproducible:
            begins = self._ended
            self._history.record(actions)
            if begins.any():
                seeds = self._history.begin(begins)
                result.observations[begins] = self._lanes.reset(seeds, begins)[begins]
                # Of these lanes only this reset counts.
                faults = {lane: what for lane, what in faults.items() if not begins[lane]} | self._lanes.faults
        faults = bad_values(result.observations, result.rewards) | faults
        if faults:
            result.abandoned = broken = _mask(faults, self.num_lanes)
            result.rewards[broken] = 0
            result.terminated[broken] = result.truncated[broken] = False
            if result.revisits is not None:
                result.revisits[broken] = False
        self._observations = result.observations
        self._ended = result.terminated | result.truncated
        self._patience.step(self._ended)
        self._begin_anew(result.observations, faults)
        return result

    def _begin_anew(self, observations: np.ndarray, faults: dict[int, str]) -> None:
        """Begin episodes where there are ``faults``, until each has a first observation that can be used."""
        while faults:
            for lane, what in faults.items():
                told = sentence(self.env_id, lane, self._patience.steps_played(lane), what)
                self._faults.append(told)
                self._patience.fault(lane, told)
            lanes = _mask(faults, self.num_lanes)
            fresh = self._lanes.reset(self._history.begin(lanes), lanes)
            observations[lanes] = fresh[lanes]
            faults = {lane: what for lane, what in bad_values(observations).items() if lanes[lane]} | self._lanes.faults

    def take_faults(self) -> list[str]:
        """What was refused since this was last asked, a sentence for each episode that it cost."""
        taken, self._faults = self._faults, []
        return taken

    def pictures(self) -> list[np.ndarray]:
        """What the last observations look like, uint8 RGB [H, W, 3] per lane; a lane that cannot be drawn has H = 0.

        Needs ``render``.
        """
        nothing = np.zeros((0, 0, 3), np.uint8)
        return self._lanes.pictures() or [nothing] * self.num_lanes

    def ram(self) -> np.ndarray:
        """The memory of every lane's console as the last observations found it, uint8 [L, 128].

        For measuring how far a game has come (the room of Montezuma's Revenge): training never sees it. Needs
        ``with_ram``.
        """
        if not isinstance(self._lanes, EmulatorLanes):
            raise ValueError("only LaneEnvironments(with_ram=True) can read the RAM")
        return self._lanes.ram()

    @property
    def action_names(self) -> list[str]:
        """What the actions are called: words with ``render`` on Atari, numbers otherwise."""
        return self._lanes.action_names

    def state_dict(self) -> dict[str, Any]:
        """Where every lane stands: seeds, the actions of the current episodes, checksums of the observations."""
        require(self.reproducible, "only LaneEnvironments(reproducible=True) can be saved and restored")
        return {
            "env_id": self.env_id,
            "history": self._history.state_dict(),
            "ended": self._ended.copy(),
            "checksums": self._checksums(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Bring every lane back by playing its current episode again.

        Raises ValueError if ``state`` belongs to another environment or number of lanes, RuntimeError if a lane
        ends up elsewhere than it was saved.
        """
        require(self.reproducible, "only LaneEnvironments(reproducible=True) can be saved and restored")
        saved_id, saved_lanes = state["env_id"], len(state["ended"])
        if (saved_id, saved_lanes) != (self.env_id, self.num_lanes):
            raise ValueError(
                f"the saved state is of {saved_lanes} lanes of {saved_id}, not {self.num_lanes} of {self.env_id}"
            )
        self._history.load_state_dict(state["history"])
        if not self._history.episodes.any():
            return
        self._observations, self._ended = self._history.replay(self._lanes)
        differs = (self._checksums() != state["checksums"]) | (self._ended != state["ended"])
        if differs.any():
            raise RuntimeError(
                f"{self.env_id}, lane {int(np.flatnonzero(differs)[0])}: playing the episode again led elsewhere, so "
                "it cannot be resumed exactly; either the environment is not deterministic given its seed, or its "
                "version or settings have changed since the state was saved"
            )

    def close(self) -> None:
        """Release the environments; the object is of no use afterwards."""
        self._lanes.close()

    def _checksums(self) -> np.ndarray:
        return np.array([zlib.crc32(observation.tobytes()) for observation in self._observations], np.int64)


def _mask(lanes: Iterable[int], num_lanes: int) -> np.ndarray:
    """bool [L], True for ``lanes``."""
    mask = np.zeros(num_lanes, np.bool_)
    mask[list(lanes)] = True
    return mask
