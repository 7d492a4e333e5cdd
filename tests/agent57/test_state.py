"""State by the names of attributes: saved at once, restored into what is there."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
import torch

from agent57.state import Stateful


class Inner(Stateful):
    STATE = ("_count",)

    def __init__(self) -> None:
        self._count = 0


class Outer(Stateful):
    STATE = ("array", "_tensor", "_rng", "_inner", "_queues", "_pair", "_by_name", "_waiting", "number")

    def __init__(self) -> None:
        self.array, self._tensor = np.zeros(3, np.float32), torch.zeros(2)
        self._rng = np.random.default_rng(0)
        self._inner, self._pair = Inner(), (Inner(), Inner())
        self._queues: list[deque[int]] = [deque(maxlen=2), deque(maxlen=2)]
        self._by_name = {"a": np.zeros(2)}
        self._waiting: np.ndarray | None = None
        self.number = 0
        self.not_state = 7

    def live(self) -> None:
        self.array += 1
        self._tensor = self._tensor + 1
        self._rng.random(5)
        self._inner._count += 1
        self._pair[1]._count += 2
        self._queues[0].append(int(self._rng.integers(10)))
        self._by_name["a"][0] += 1
        self._waiting = None if self._waiting is not None else np.ones(4)
        self.number += 1


def shown(outer: Outer) -> Any:
    return repr(outer.state_dict())


@pytest.mark.parametrize("times", [0, 1, 2, 3])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_restored_one_is_what_was_saved_and_goes_on_alike(times: int, before: int) -> None:
    first, second = Outer(), Outer()
    for _ in range(times):
        first.live()
    for _ in range(before):
        second.live()
    second.not_state = 9
    inner = second._inner
    second.load_state_dict(first.state_dict())
    assert shown(second) == shown(first)
    assert second._inner is inner
    assert second._queues[0].maxlen == 2
    assert second.array.dtype == np.float32
    assert second.not_state == 9
    first.live()
    second.live()
    assert shown(second) == shown(first)


def test_what_was_saved_does_not_change_as_its_owner_goes_on() -> None:
    outer = Outer()
    outer.live()
    state = outer.state_dict()
    before = repr(state)
    outer.live()
    assert repr(state) == before
    assert set(state) == {name.lstrip("_") for name in Outer.STATE}


def test_an_array_of_another_shape_and_a_missing_name_are_refused() -> None:
    state = Outer().state_dict()
    with pytest.raises(ValueError, match="cannot take the place"):
        Outer().load_state_dict(state | {"array": np.zeros(4)})
    del state["number"]
    with pytest.raises(KeyError):
        Outer().load_state_dict(state)
