"""The kinds of environment that lanes can be: Atari games, the project's gridworlds, any other Gymnasium id.

Each steps L lanes with next-step autoreset (see `environments.py`, which puts them behind one class).
"""

from __future__ import annotations

import difflib
import functools
import importlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ale_py
import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from actors.atari_lanes import AtariLanes
from actors.environment_step import EnvironmentStep, naming, numbered

# Importing the gridworlds registers them.
from actors.gridworlds.vector_gridworld import VectorGridworld
from actors.supported_spaces import UnsupportedEnvironment, num_actions, observation_layout
from agent57.config import require
from agent57.structures import EnvironmentSpec

if TYPE_CHECKING:
    from actors.environments import EnvironmentConfig

gymnasium.register_envs(ale_py)


def keyword_arguments(arguments: tuple[str, ...]) -> dict[str, Any]:
    """{"size": 9} of ("size=9",); raises ValueError for anything but distinct name=value entries."""
    values: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        require(bool(equals) and name.isidentifier(), f"environment.arguments are name=value, not {argument!r}")
        require(name not in values, f"environment.arguments gives {name} twice")
        require(
            name != "max_episode_steps", "environment.arguments is no place for it: environment.max-episode-steps is"
        )
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return values


def atari_rom(env_id: str) -> str | None:
    """ROM name such as "montezuma_revenge" if ``env_id`` is an Atari game, else None."""
    registered = _registered(env_id)
    return registered.kwargs["game"] if registered.entry_point == "ale_py.env:AtariEnv" else None


class _GymnasiumLanes:
    """Any environment but Atari and the project's gridworlds, in Gymnasium's synchronous vector environment.

    A package's own vector environment is not used, since each seeds, truncates and resets in its own way. That of the
    gridworlds (`_GridworldLanes`) does so lane by lane, as this does.
    """

    def __init__(
        self, env_id: str, registered: EnvSpec, num_lanes: int, config: EnvironmentConfig, render: bool
    ) -> None:
        arguments = keyword_arguments(config.arguments)
        self._renders = render and "rgb_array" in _render_modes(registered)
        look = {"render_mode": "rgb_array"} if self._renders else {}
        limit = {} if config.max_episode_steps is None else {"max_episode_steps": config.max_episode_steps}

        def make(lane: int) -> gymnasium.Env:
            with _refusing(env_id, arguments):
                environment = gymnasium.make(registered, disable_env_checker=True, **limit, **look, **arguments)
            return _NamedLane(environment, f"{env_id}, lane {lane}")

        try:
            self._vector = gymnasium.vector.SyncVectorEnv(
                [functools.partial(make, lane) for lane in range(num_lanes)],
                # Observations are copied below, into arrays of their own.
                copy=False,
                autoreset_mode=gymnasium.vector.AutoresetMode.NEXT_STEP,
            )
        except (gymnasium.error.Error, ImportError) as error:
            raise UnsupportedEnvironment(f"{env_id} cannot be made: {error}") from error
        space, actions = self._vector.single_observation_space, self._vector.single_action_space
        shape, dtype, scale, self._convert = observation_layout(env_id, space)
        self.spec = EnvironmentSpec(shape, dtype, scale, num_actions(env_id, actions))
        self.first_action = int(actions.start)

    @property
    def action_names(self) -> list[str]:
        return numbered(self.spec)

    def reset(self, seeds: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        lane_seeds: list[int | None] = [None] * len(lanes)
        for lane, seed in zip(np.flatnonzero(lanes), seeds, strict=True):
            lane_seeds[lane] = int(seed)
        observations, _ = self._vector.reset(seed=lane_seeds, options={"reset_mask": lanes.copy()})
        return self._converted(observations)

    def step(self, actions: np.ndarray) -> EnvironmentStep:
        observations, rewards, terminated, truncated, infos = self._vector.step(actions + self.first_action)
        revisits = np.asarray(infos["revisit"], np.bool_) if "revisit" in infos else None
        return EnvironmentStep(
            self._converted(observations), rewards.astype(np.float32), terminated, truncated, revisits
        )

    def pictures(self) -> list[np.ndarray] | None:
        return [np.asarray(picture) for picture in self._vector.render() or ()] if self._renders else None

    def close(self) -> None:
        self._vector.close()

    def _converted(self, observations: np.ndarray) -> np.ndarray:
        converted = np.empty((len(observations), *self.spec.observation_shape), self.spec.observation_dtype)
        for lane, observation in enumerate(observations):
            converted[lane] = self._convert(observation)
        return converted


class _GridworldLanes:
    """The project's own gridworlds, whose lanes are stepped together."""

    first_action = 0

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
            self._vector = vector_class(  # type: ignore[call-arg]
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
        observations, _ = self._vector.reset(seed=lane_seeds, options={"reset_mask": lanes})
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


class _NamedLane(gymnasium.Wrapper):
    """Adds to whatever an environment raises which one of them it was."""

    def __init__(self, environment: gymnasium.Env, name: str) -> None:
        super().__init__(environment)
        self._name = name

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        with naming(self._name):
            return self.env.reset(**arguments)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        with naming(self._name):
            return self.env.step(action)


def make_lanes(
    env_id: str, num_lanes: int, config: EnvironmentConfig, num_threads: int, render: bool = False
) -> AtariLanes | _GridworldLanes | _GymnasiumLanes:
    """What `LaneEnvironments` steps, for whoever keeps seeds himself: `actors/training_environment.py`."""
    registered, rom = _registered(env_id), atari_rom(env_id)
    if rom is not None:
        if config.arguments:
            raise UnsupportedEnvironment(
                f"{env_id} is an Atari game, which takes no environment.arguments: its settings are the other flags "
                "of environment, such as environment.frame-skip"
            )
        return AtariLanes(env_id, rom, num_lanes, config, num_threads, render)
    vector_class = registered.vector_entry_point
    if isinstance(vector_class, type) and issubclass(vector_class, VectorGridworld):
        return _GridworldLanes(env_id, vector_class, registered, num_lanes, config, render)
    return _GymnasiumLanes(env_id, registered, num_lanes, config, render)


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
        try:
            importlib.import_module(module)
        except (ImportError, ValueError) as error:
            raise UnsupportedEnvironment(
                f"the module of {env_id} cannot be imported ({error}); install it or put its folder on PYTHONPATH"
            ) from error
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
    """Turn what a constructor raises about ``arguments`` into UnsupportedEnvironment; without any, let it through."""
    try:
        yield
    except (TypeError, ValueError, AssertionError) as error:
        if not arguments:
            raise
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is not None and unknown[1] in arguments:
            reason = f"it knows no argument {unknown[1]!r}"
        else:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
        given = " ".join(f"{name}={value}" for name, value in arguments.items())
        raise UnsupportedEnvironment(f"{env_id} cannot be made with environment.arguments {given}: {reason}") from error
