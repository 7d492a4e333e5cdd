"""Restarts wait longer each time, and a crash loop ends with the first cause."""

from __future__ import annotations

import pytest

from cluster.errors import TrainingStopped
from cluster.restarts import Restarts


def test_each_restart_waits_longer_and_is_handed_out_once() -> None:
    restarts = Restarts(max_restarts=9, window_seconds=600)
    worker, learner = ("worker", 0), ("learner", 0)
    waits = [restarts.plan(worker, "crash", now=100.0) for _ in range(6)]
    assert waits == [1, 5, 15, 30, 30, 30]
    assert restarts.plan(learner, "crash", now=100.0) == 1
    assert worker in restarts
    assert restarts.due(100.9) == []
    assert restarts.due(101.0) == [learner]
    assert learner not in restarts
    assert restarts.due(130.0) == [worker]
    assert restarts.due(999.0) == []


def test_too_many_failures_within_the_window_stop_with_the_first_cause() -> None:
    restarts = Restarts(max_restarts=2, window_seconds=60)
    for now, cause in ((0.0, "forgotten"), (61.0, "first"), (70.0, "second")):
        restarts.plan(("replay", 3), cause, now)
    restarts.plan(("replay", 4), "another", 70.0)
    with pytest.raises(TrainingStopped, match=r"replay 3 failed 3 times within 1 minutes. The first failure: first"):
        restarts.plan(("replay", 3), "third", 80.0)
