"""The state of a class by the names of its attributes, which are said once."""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar

import numpy as np
from torch import Tensor


class Stateful:
    """Gives a class `state_dict` and `load_state_dict`, of the attributes that ``STATE`` names.

    An attribute may be a number, an array, a tensor, a random generator, something with a state of its own, or lists,
    deques and dicts of these; None stands for what may be there or not. Keys are the names without their underscore.
    """

    STATE: ClassVar[tuple[str, ...]] = ()

    def state_dict(self) -> dict[str, Any]:
        """Everything, to be saved at once: tensors are not copied, arrays are."""
        return {name.lstrip("_"): _saved(getattr(self, name)) for name in self.STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly from ``state``."""
        for name in self.STATE:
            setattr(self, name, _restored(getattr(self, name), state[name.lstrip("_")]))


def _saved(value: Any) -> Any:
    if hasattr(value, "state_dict"):
        return value.state_dict()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: _saved(held) for key, held in value.items()}
    return [_saved(held) for held in value] if isinstance(value, (list, tuple, deque)) else value


def _restored(current: Any, saved: Any) -> Any:
    """What takes the place of ``current``: itself, where it has a state of its own. ValueError for another shape."""
    if current is None or saved is None:
        return saved
    if hasattr(current, "load_state_dict"):
        current.load_state_dict(saved)
    elif isinstance(current, np.random.Generator):
        current.bit_generator.state = saved
    elif isinstance(current, np.ndarray):
        if current.shape != np.shape(saved):
            raise ValueError(f"an array of shape {np.shape(saved)} cannot take the place of one of {current.shape}")
        return np.array(saved, current.dtype)
    elif isinstance(current, Tensor):
        return saved.to(current.device)
    elif isinstance(current, dict):
        return {key: _restored(held, saved[key]) for key, held in current.items()}
    elif isinstance(current, (list, tuple)):
        return type(current)(_restored(held, new) for held, new in zip(current, saved, strict=True))
    elif isinstance(current, deque):
        return deque(saved, current.maxlen)
    else:
        return saved
    return current
