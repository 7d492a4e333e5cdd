"""Which observation and action spaces Agent57 can use, and the form in which it takes them.

Used by `actors/environment_kinds.py` for everything but Atari, whose preprocessing is fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces


class UnsupportedEnvironment(ValueError):
    """The environment cannot be used; the message is one sentence that says what to do."""


def num_actions(env_id: str, space: spaces.Space[Any]) -> int:
    """Number of actions; raises UnsupportedEnvironment unless ``space`` is Discrete."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    wrapper = "DiscretizeAction" if isinstance(space, spaces.Box) else "TransformAction"
    raise UnsupportedEnvironment(
        f"{env_id} has the action space {space} but Agent57 needs a Discrete one: {_wrap_in(wrapper)}"
    )


def observation_layout(
    env_id: str, space: spaces.Space[Any]
) -> tuple[tuple[int, ...], str, float, Callable[[Any], np.ndarray]]:
    """(shape, dtype, scale, function that brings one observation into that shape).

    Vectors are (D,), images (C, H, W). Discrete observations become one-hot vectors. Arrays of three axes are taken
    for (H, W, C) unless the first axis has at most 4 entries and the last more. Bytes stay uint8 and are scaled by
    the space's largest value; everything else becomes float32. Raises UnsupportedEnvironment.
    """
    if isinstance(space, spaces.Discrete | spaces.MultiBinary | spaces.MultiDiscrete):
        size = spaces.flatdim(space)
        return (size,), "float32", 1.0, lambda observation: np.asarray(spaces.flatten(space, observation))
    if not isinstance(space, spaces.Box):
        wrapper = "FlattenObservation" if space.is_np_flattenable else "TransformObservation"
        raise UnsupportedEnvironment(
            f"{env_id} has {type(space).__name__} observations but Agent57 needs one array: {_wrap_in(wrapper)}"
        )
    dtype, scale = ("uint8", float(space.high.max())) if space.dtype == np.uint8 else ("float32", 1.0)
    match space.shape:
        case ():
            return (1,), dtype, scale, np.atleast_1d
        case (size,):
            return (size,), dtype, scale, np.asarray
        case (height, width):
            return (1, height, width), dtype, scale, lambda observation: observation[np.newaxis]
        case (channels, height, width) if channels <= 4 < width:
            return (channels, height, width), dtype, scale, np.asarray
        case (height, width, channels):
            return (channels, height, width), dtype, scale, lambda observation: np.moveaxis(observation, -1, 0)
    raise UnsupportedEnvironment(
        f"{env_id} has observations of shape {space.shape} but Agent57 takes at most 3 axes (height, width, channels): "
        f"{_wrap_in('ReshapeObservation')}"
    )


def _wrap_in(wrapper: str) -> str:
    return f"register a version wrapped in gymnasium.wrappers.{wrapper} in a module of yours and name it module:EnvId"
