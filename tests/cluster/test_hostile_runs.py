"""Runs on environments that break the rules: they train on, or stop with a sentence and a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import launch
from actors.environments.contract import EnvironmentConfig, LaneEnvironments
from actors.environments.door import EnvironmentRaised
from cluster.commands.train import train
from cluster.run.checkpoint import Checkpoints, load_tree
from cluster.run.config import TrainConfig
from cluster.run.errors import TrainingStopped
from cluster.telemetry.metrics import read_metrics
from cluster.telemetry.telemetry import Telemetry
from tests.cluster.tiny import tiny_config

HOSTILE = "tests.hostile_environments:Hostile-v0"


def hostile(run_dir: Path, *arguments: str, frames: int = 2500, **changes: Any) -> TrainConfig:
    environment = EnvironmentConfig(arguments=arguments)
    changes = {"run_dir": str(run_dir), "max_env_frames": frames, "env": HOSTILE, "environment": environment} | changes
    return tiny_config(**changes)


def numbers(tree: Any) -> list[np.ndarray]:
    """Every array of numbers in ``tree``."""
    if isinstance(tree, dict):
        return [array for child in tree.values() for array in numbers(child)]
    if isinstance(tree, list | tuple):
        return [array for child in tree for array in numbers(child)]
    array = np.asarray(tree)
    return [array] if array.dtype.kind in "fiu" else []


def newest(run_dir: Path) -> Path:
    return Checkpoints(run_dir, 9).latest_or_error(pytest.fail)


def assert_finite(run_dir: Path) -> None:
    """The newest checkpoint can be read, and holds nothing that is not finite."""
    for name in ("learner", "supervisor", "serial"):
        if (newest(run_dir) / f"{name}.json").exists():
            assert all(np.isfinite(array).all() for array in numbers(load_tree(newest(run_dir), name))), name


@pytest.mark.parametrize("fault", [pytest.param("nan observation", marks=pytest.mark.slow), "inf reward"])
def test_a_rare_bad_value_leaves_the_run_learning(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run_dir = tmp_path / "run"
    assert train(hostile(run_dir, f"fault={fault}", "every=0.01"), "smoke", None) == 0
    metrics = read_metrics(run_dir)
    assert metrics["health/environment_faults"].values[-1] > 10
    assert metrics["health/restarts"].values[-1] == 0
    assert metrics["replay/refused"].values[-1] == 0
    assert np.isfinite(metrics["learner/extrinsic_loss"].values).all()
    assert metrics["return/length"].values[-1] == 10
    assert metrics["evaluation/return"].values[-1] <= 10
    assert_finite(run_dir)
    # Once, however many there were.
    assert capsys.readouterr().out.count("that episode is left out") == 1
    assert train(hostile(run_dir, f"fault={fault}", "every=0.01", frames=3000), "smoke", run_dir) == 0
    assert_finite(run_dir)


@pytest.mark.parametrize("fault", ["nan observation", "exit", pytest.param("raise", marks=pytest.mark.slow)])
def test_one_that_turns_bad_for_ever_stops_the_run_and_keeps_what_was_learned(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.runtime.recovery.BACKOFF_SECONDS", (0.0,))
    run_dir = tmp_path / "run"
    with pytest.raises(TrainingStopped, match=rf"worker 0 failed . times.*{HOSTILE}, lane .*, step") as stopped:
        train(hostile(run_dir, f"fault={fault}", "after=150", frames=10**6), "smoke", None)
    assert "\n" not in str(stopped.value)
    learned = load_tree(newest(run_dir), "learner")
    assert learned["updates"] > 0
    assert_finite(run_dir)
    assert "Traceback" in (run_dir / "failures" / "worker-0.txt").read_text()
    # And can be gone on from, once the environment is mended.
    more = load_tree(newest(run_dir), "supervisor")["env_steps"] + 200
    monkeypatch.setattr("tests.hostile_environments.Hostile._turns", lambda self, fault: False)
    assert train(hostile(run_dir, f"fault={fault}", "after=150", frames=more), "smoke", run_dir) == 0


def test_a_worker_that_cannot_be_made_or_restored_at_first_is_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.runtime.recovery.BACKOFF_SECONDS", (0.0,))
    reset, replay = LaneEnvironments.reset, LaneEnvironments.load_state_dict
    trips = [EnvironmentRaised("no display yet")]

    def trip(self: LaneEnvironments, *arguments: Any) -> Any:
        if trips:
            raise trips.pop()
        return (replay if arguments else reset)(self, *arguments)

    run_dir = tmp_path / "run"
    monkeypatch.setattr(LaneEnvironments, "reset", trip)
    assert train(hostile(run_dir, frames=300), "smoke", None) == 0
    assert read_metrics(run_dir)["health/restarts"].values[-1] == 1
    monkeypatch.setattr(LaneEnvironments, "load_state_dict", trip)
    trips.append(EnvironmentRaised("no display again"))
    monkeypatch.setattr(LaneEnvironments, "reset", reset)
    assert train(hostile(run_dir, frames=600), "smoke", run_dir) == 0
    assert read_metrics(run_dir)["health/restarts"].values[-1] == 2
    assert "no display again" in (run_dir / "failures" / "worker-0.txt").read_text()


def test_a_reply_that_cannot_be_handled_is_a_failure_of_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.runtime.recovery.BACKOFF_SECONDS", (0.0,))
    handle = Telemetry.rolled_out
    calls = iter(range(10**6))

    def trips_once(self: Telemetry, worker: int, reply: Any, **more: Any) -> None:
        if next(calls) == 5:
            reply.metrics = None
        handle(self, worker, reply, **more)

    monkeypatch.setattr(Telemetry, "rolled_out", trips_once)
    assert train(hostile(tmp_path / "run", frames=1000), "smoke", None) == 0
    assert read_metrics(tmp_path / "run")["health/restarts"].values[-1] == 1
    assert "'NoneType' object has no attribute 'items'" in (tmp_path / "run/failures/worker-0.txt").read_text()


def test_eval_names_an_environment_that_turns_bad(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run_dir = tmp_path / "run"
    assert train(hostile(run_dir, "fault=no reward", "after=120", frames=200), "smoke", None) == 0
    module = HOSTILE.partition(":")[0]
    evaluate = ["eval", str(run_dir), "--episodes", "30", "--lanes", "1", "--trust-modules", module]
    assert launch.main(evaluate) == 2
    told = capsys.readouterr().err
    assert HOSTILE in told
    assert "its reward is None" in told
    assert "Traceback" not in told


def test_a_worker_whose_environment_raised_once_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.runtime.recovery.BACKOFF_SECONDS", (0.0,))
    marker = tmp_path / "fault"
    marker.write_text("raise")
    monkeypatch.setenv("FAULT_FILE", str(marker))
    # The trial meets it first, and tries again.
    monkeypatch.setattr("cluster.commands.train.try_environment", after(marker))
    assert (
        train(tiny_config(run_dir=str(tmp_path / "run"), max_env_frames=600, env="tests.fakes:Faulty-v0"), "", None)
        == 0
    )
    assert read_metrics(tmp_path / "run")["health/restarts"].values[-1] == 1
    assert "caught fire once" in (tmp_path / "run/failures/worker-0.txt").read_text()


def after(marker: Path) -> Any:
    from actors.environments.trial import try_environment

    def trial(*arguments: Any) -> Any:
        marker.rename(marker.with_suffix(".away"))
        found = try_environment(*arguments)
        marker.with_suffix(".away").rename(marker)
        return found

    return trial
