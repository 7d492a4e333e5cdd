"""Answers that are asked for now and looked at later, so that nobody waits for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError


class LateAnswers:
    """What some processes answer to the same question; ``ask`` puts it to all of them, without waiting."""

    def __init__(self, ask: Callable[[], list[ray.ObjectRef]]) -> None:
        self._ask = ask
        self._asked: list[ray.ObjectRef] = []

    def newest(self) -> list[Any] | None:
        """The answers to the question before this one, which is put now; None while one is out, or if one failed."""
        answers = None
        if self._asked:
            ready, waiting = ray.wait(self._asked, num_returns=len(self._asked), timeout=0)
            if waiting:
                return None
            try:
                answers = ray.get(ready, timeout=0)
            except (RayError, GetTimeoutError):
                answers = None
        self._asked = self._ask()
        return answers
