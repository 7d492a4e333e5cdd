"""The kinds of environment that lanes can be: Atari games, the project's gridworlds, any other Gymnasium id.

Each steps L lanes with next-step autoreset (see `contract.py`, which puts them behind one class).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import ale_py
import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from actors.environments.atari.emulator import EmulatorLanes
from actors.environments.atari.lanes import AtariLanes
from actors.environments.config import EnvironmentConfig, keyword_arguments
from actors.environments.door import in_words, naming

# Importing the gridworlds registers them.
from actors.environments.gridworlds.vector_gridworld import VectorGridworld
from actors.environments.gymnasium_lanes import GymnasiumLanes
from actors.environments.step import EnvironmentStep, numbered
from actors.environments.supported_spaces import UnsupportedEnvironment, num_actions, observation_layout
from actors.trusted_modules import import_named
from agent57.structures import EnvironmentSpec

gymnasium.register_envs(ale_py)


def atari_rom(env_id: str) -> str | None:
    """ROM name such as "montezuma_revenge" if ``env_id`` is an Atari game, else None."""
    registered = _registered(env_id)
    return registered.kwargs["game"] if registered.entry_point == "ale_py.env:AtariEnv" else None


class _GridworldLanes:
    """The project's own gridworlds, whose lanes are stepped together."""

    first_action = 0
    faults: ClassVar[dict[int, str]] = {}

    def __init__(
        self,
        env_id: str,
        vector_class: type[VectorGridworld],
        registered: EnvSpec,
        num_lanes: int,
        config: EnvironmentConfig,
        render: bool,
    ) -> None:
        self._env_id = env_id
        arguments = keyword_arguments(config.arguments)
        limit = registered.max_episode_steps if config.max_episode_steps is None else config.max_episode_steps
        with _refusing(env_id, arguments):
            self._vector = vector_class(
                num_envs=num_lanes,
                max_episode_steps=limit,
                render_mode="rgb_array" if render else None,
                **{**registered.kwargs, **arguments},
            )
        space, actions = self._vector.single_observation_space, self._vector.single_action_space
        shape, dtype, scale, _ = observation_layout(env_id, space)
        self.spec = EnvironmentSpec(shape, dtype, scale, num_actions(env_id, actions))
        self._channels_last = shape != space.shape

    @property
    def action_names(self) -> list[str]:
        return numbered(self.spec)

    def reset(self, seeds: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        lane_seeds = np.zeros(len(lanes), np.int64)
        lane_seeds[lanes] = seeds
        observations, _ = self._vector.reset(seed=lane_seeds.tolist(), options={"reset_mask": lanes})
        return self._converted(observations)

    def step(self, actions: np.ndarray) -> EnvironmentStep:
        with naming(self._env_id):
            observations, rewards, terminated, truncated, infos = self._vector.step(actions)
        return EnvironmentStep(
            self._converted(observations), rewards.astype(np.float32), terminated, truncated, infos["revisit"]
        )

    def pictures(self) -> list[np.ndarray] | None:
        pictures = self._vector.render()
        return None if pictures is None else list(pictures)

    def close(self) -> None:
        self._vector.close()

    def _converted(self, observations: np.ndarray) -> np.ndarray:
        # What `observation_layout` does to one observation, to all at once.
        return np.ascontiguousarray(np.moveaxis(observations, -1, 1)) if self._channels_last else observations


KindOfLanes = AtariLanes | EmulatorLanes | _GridworldLanes | GymnasiumLanes


def make_lanes(
    env_id: str,
    num_lanes: int,
    config: EnvironmentConfig,
    num_threads: int,
    render: bool = False,
    with_ram: bool = False,
) -> KindOfLanes:
    """What `LaneEnvironments` steps, for whoever keeps seeds himself: `actors/environments/training_environment.py`."""
    registered, rom = _registered(env_id), atari_rom(env_id)
    asks_emulator = with_ram or config.mode is not None or config.difficulty is not None
    if rom is not None:
        if config.arguments:
            raise UnsupportedEnvironment(
                f"{env_id} is an Atari game, which takes no environment.arguments: its settings are the other flags "
                "of environment, such as environment.frame-skip"
            )
        if config.max_episode_steps is not None:
            raise UnsupportedEnvironment(
                f"{env_id} is an Atari game, whose episodes are limited in emulator frames: instead of "
                f"--environment.max-episode-steps give --environment.max-frames "
                f"{config.max_episode_steps * config.frame_skip}"
            )
        if asks_emulator:
            return EmulatorLanes(env_id, rom, num_lanes, config, render)
        return AtariLanes(env_id, rom, num_lanes, config, num_threads, render)
    if asks_emulator:
        raise UnsupportedEnvironment(f"{env_id} is no Atari game: it has no mode, no difficulty and no RAM")
    vector_class = registered.vector_entry_point
    if isinstance(vector_class, type) and issubclass(vector_class, VectorGridworld):
        return _GridworldLanes(env_id, vector_class, registered, num_lanes, config, render)
    arguments = keyword_arguments(config.arguments)
    renders = render and "rgb_array" in _render_modes(registered)
    look: dict[str, Any] = {"render_mode": "rgb_array"} if renders else {}
    limit: dict[str, Any] = {} if config.max_episode_steps is None else {"max_episode_steps": config.max_episode_steps}

    def make() -> gymnasium.Env:
        with _refusing(env_id, arguments):
            environment = gymnasium.make(registered, disable_env_checker=True, **limit, **look, **arguments)
            # Wrappers ask for them late; without them nothing was made.
            _ = environment.observation_space, environment.action_space
            return environment

    return GymnasiumLanes(env_id, num_lanes, make, renders)


def has_step_limit(env_id: str, config: EnvironmentConfig) -> bool:
    """Whether episodes are truncated after some number of steps, as far as that is registered or configured."""
    limited = config.max_episode_steps is not None or _registered(env_id).max_episode_steps is not None
    return limited or atari_rom(env_id) is not None


def _render_modes(registered: EnvSpec) -> list[str]:
    """The render modes of an environment's class; none if that cannot be told without making it."""
    try:
        entry = registered.entry_point
        made_by = gymnasium.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
        return list(getattr(made_by, "metadata", {}).get("render_modes", []))
    except (ImportError, AttributeError, ValueError):
        return []


def _registered(env_id: str) -> EnvSpec:
    """Gymnasium's entry for ``env_id``, importing its module first if it is written `module:EnvId`."""
    module, colon, name = env_id.rpartition(":")
    if colon:
        import_named(module, f"the module of {env_id}", UnsupportedEnvironment)
    try:
        return gymnasium.spec(name)
    except gymnasium.error.Error:
        raise UnsupportedEnvironment(f"no environment is called {name!r}; {_suggestion(name)}") from None


def _suggestion(name: str) -> str:
    """What to try instead: the registered ids that look most like ``name``."""
    # Later versions of an environment overwrite earlier ones; ALE/Pong-v5 is found as "pong" too.
    spellings: dict[str, str] = {}
    for registered in gymnasium.registry.values():
        spellings[registered.id.lower()] = spellings[registered.name.lower()] = registered.id
    close = difflib.get_close_matches(name.lower(), spellings, n=5)
    ids = list(dict.fromkeys(spellings[spelling] for spelling in close))[:3]
    if not ids:
        return "give a registered id such as ALE/Pong-v5, or module:EnvId to import the module that registers it"
    return f"did you mean {' or '.join(ids)}?"


@contextmanager
def _refusing(env_id: str, arguments: dict[str, Any]) -> Iterator[None]:
    """Turn whatever a constructor raises into UnsupportedEnvironment."""
    try:
        yield
    except UnsupportedEnvironment:
        raise
    except BaseException as error:
        if not arguments or not isinstance(error, TypeError | ValueError | AssertionError):
            raise UnsupportedEnvironment(f"{env_id} cannot be made: {in_words(error)}") from error
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is not None and unknown[1] in arguments:
            reason = f"it knows no argument {unknown[1]!r}"
        else:
            reason = in_words(error)
        given = " ".join(f"{name}={value}" for name, value in arguments.items())
        raise UnsupportedEnvironment(f"{env_id} cannot be made with environment.arguments {given}: {reason}") from error
