"""Which observation and action spaces Agent57 can use, and the form in which it takes them.

Used by `actors/environments/kinds.py` for everything but Atari, whose preprocessing is fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from actors.environments.door import Refused

MAX_ACTIONS = 4096
"""Most actions: every step stores two Q-values for each."""
MAX_ONE_HOT = 65_536
"""Longest one-hot vector that a discrete observation may become."""


class UnsupportedEnvironment(ValueError):
    """The environment cannot be used; the message is one sentence that says what to do."""


def num_actions(env_id: str, space: spaces.Space[Any]) -> int:
    """Number of actions; raises UnsupportedEnvironment unless ``space`` is Discrete, of at most `MAX_ACTIONS`."""
    if isinstance(space, spaces.Discrete):
        if space.n > MAX_ACTIONS:
            raise UnsupportedEnvironment(
                f"{env_id} has {space.n:,} actions but Agent57 takes at most {MAX_ACTIONS:,}: group them, or choose in "
                f"several steps; {_wrap_in('TransformAction')}"
            )
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
    the space's largest value; everything else becomes float32. Raises UnsupportedEnvironment; the function raises
    Refused for what is no such observation.
    """
    if isinstance(space, spaces.Discrete | spaces.MultiBinary | spaces.MultiDiscrete):
        size = spaces.flatdim(space)
        if not 0 < size <= MAX_ONE_HOT:
            raise UnsupportedEnvironment(
                f"{env_id} has observations {space}, a vector of {size:,} zeros and ones, but Agent57 takes 1 to "
                f"{MAX_ONE_HOT:,}: {_wrap_in('TransformObservation')}"
            )
        return (size,), "float32", 1.0, lambda observation: _one_hot(space, observation)
    if not isinstance(space, spaces.Box):
        wrapper = "FlattenObservation" if getattr(space, "is_np_flattenable", False) else "TransformObservation"
        raise UnsupportedEnvironment(
            f"{env_id} has {type(space).__name__} observations but Agent57 needs one array: {_wrap_in(wrapper)}"
        )
    if 0 in space.shape:
        raise UnsupportedEnvironment(f"{env_id} has observations of shape {space.shape}, which hold nothing")
    if np.array_equal(space.low, space.high):
        raise UnsupportedEnvironment(
            f"{env_id} has an observation space whose bounds are equal, low = high = {space.low.flat[0]:g}, so that "
            "nothing can be observed: give it the bounds that its observations have"
        )
    dtype, scale = ("uint8", float(space.high.max())) if space.dtype == np.uint8 else ("float32", 1.0)

    def layout(
        shape: tuple[int, ...], arrange: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[tuple[int, ...], str, float, Callable[[Any], np.ndarray]]:
        return shape, dtype, scale, lambda observation: arrange(_array(space.shape, dtype, observation))

    match space.shape:
        case ():
            return layout((1,), np.atleast_1d)
        case (size,):
            return layout((size,), _as_it_is)
        case (height, width):
            return layout((1, height, width), lambda image: image[np.newaxis])
        case (channels, height, width) if channels <= 4 < width:
            return layout((channels, height, width), _as_it_is)
        case (height, width, channels):
            return layout((channels, height, width), lambda image: np.moveaxis(image, -1, 0))
    raise UnsupportedEnvironment(
        f"{env_id} has observations of shape {space.shape} but Agent57 takes at most 3 axes (height, width, channels): "
        f"{_wrap_in('ReshapeObservation')}"
    )


def _as_it_is(array: np.ndarray) -> np.ndarray:
    return array


def _array(shape: tuple[int, ...], dtype: str, observation: Any) -> np.ndarray:
    """``observation`` as an array of this shape and type; it may be anything that holds the same numbers."""
    array = _any_array(observation)
    if array.shape != shape:
        raise Refused(f"observation has the shape {array.shape}, not {shape}")
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "fiub":
        raise Refused(f"observation is an array of {array.dtype}, not of numbers")
    # What becomes infinite is refused with the values that are.
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(dtype)
    if dtype == "uint8" and not (cast == array).all():
        value = array[cast != array].flat[0]
        raise Refused(f"observation holds {value:g}, but the space is of whole numbers from 0 to 255 (uint8)")
    return cast


def _one_hot(space: spaces.Space[Any], observation: Any) -> np.ndarray:
    array = _any_array(observation)
    if array.dtype.kind in "iub" and array.shape == space.shape:
        member = array.astype(space.dtype)
        if space.contains(member):
            return np.asarray(spaces.flatten(space, member))
    raise Refused(f"observation {' '.join(repr(observation).split())[:60]} is not in its space {space}")


def _any_array(observation: Any) -> np.ndarray:
    try:
        return np.asarray(observation)
    except Exception as error:  # whatever its own conversion raises; lists of different lengths raise ValueError
        raise Refused(f"observation, a {type(observation).__name__}, makes no array: {error}") from error


def _wrap_in(wrapper: str) -> str:
    return f"register a version wrapped in gymnasium.wrappers.{wrapper} in a module of yours and name it module:EnvId"
