"""Restarts wait longer each time, and a crash loop ends with the first cause."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.environments.door import EnvironmentFault, EnvironmentRaised
from cluster.run.errors import ActingStopped, TrainingStopped
from cluster.runtime.recovery import Restarts


def test_each_restart_waits_longer_and_is_handed_out_once(tmp_path: Path) -> None:
    restarts = Restarts(9, 600, tmp_path)
    crash = RuntimeError("crash")
    worker, learner = ("worker", 0), ("learner", 0)
    waits = [restarts.plan(worker, crash, now=100.0) for _ in range(6)]
    assert waits == [1, 5, 15, 30, 30, 30]
    assert restarts.plan(learner, crash, now=100.0) == 1
    assert worker in restarts
    assert restarts.due(100.9) == []
    assert restarts.due(101.0) == [learner]
    assert learner not in restarts
    assert restarts.due(130.0) == [worker]
    assert restarts.due(999.0) == []


def test_too_many_failures_within_the_window_stop_with_the_first_cause(tmp_path: Path) -> None:
    restarts = Restarts(2, 60, tmp_path)
    for now, cause in ((0.0, "forgotten"), (61.0, "first"), (70.0, "second")):
        restarts.plan(("replay", 3), ValueError(cause), now)
    restarts.plan(("replay", 4), ValueError("another"), 70.0)
    with pytest.raises(
        TrainingStopped, match=r"replay 3 failed 3 times within 1 minutes. The first failure: ValueError: first"
    ):
        restarts.plan(("replay", 3), ValueError("third"), 80.0)


def test_environments_that_hand_out_nothing_usable_stop_the_run_sooner_than_those_that_raise(tmp_path: Path) -> None:
    restarts = Restarts(5, 600, tmp_path)
    for _ in range(4):
        restarts.plan(("worker", 1), EnvironmentRaised("it raised"), 0.0)
    for _ in range(2):
        restarts.plan(("worker", 0), EnvironmentFault("its reward is nan"), 0.0)
    with pytest.raises(ActingStopped, match="its reward is nan"):
        restarts.plan(("worker", 0), EnvironmentFault("its reward is nan"), 0.0)
    assert ("learner", 0) in restarts, "nothing is restarted once the run is given up"


def test_every_failure_is_written_down_whole(tmp_path: Path) -> None:
    restarts = Restarts(5, 600, tmp_path)
    for cause in ("first", "second"):
        try:
            raise RuntimeError(cause)
        except RuntimeError as error:
            restarts.plan(("worker", 7), error, 0.0)
    told = (tmp_path / "failures" / "worker-7.txt").read_text()
    assert told.count("Traceback") == 2
    assert "test_restarts.py" in told
