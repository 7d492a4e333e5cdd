"""What may change over a resume does, and what may not is refused in a sentence that leaves the run as it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import launch
from cluster.commands.train import train
from cluster.run.checkpoint import Checkpoints, load_tree
from cluster.run.config import TrainConfig, load_config
from cluster.run.errors import UserError
from cluster.run.resumed import refuse_other_agent
from tests.cluster.tiny import tiny_config


def run(config: TrainConfig, frames: int, run_dir: Path, resume: bool) -> None:
    config = dataclasses.replace(config, run_dir=str(run_dir), max_env_frames=frames)
    assert train(config, "smoke", run_dir if resume else None) == 0


def test_a_serial_run_goes_on_with_other_lanes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tiny_config()
    run(base, 400, tmp_path, resume=False)
    frames = 400
    for lanes in (7, 2):
        frames += 400
        changed = dataclasses.replace(base, cluster=dataclasses.replace(base.cluster, lanes_per_worker=lanes))
        capsys.readouterr()
        run(changed, frames, tmp_path, resume=True)
        assert "lanes have changed" in capsys.readouterr().out
    state = load_tree(Checkpoints(tmp_path, 9).latest_or_error(pytest.fail), "supervisor")
    assert state["env_steps"] >= frames
    assert len(state["running_states"][0]["distance_sum"]) == 2


@pytest.mark.parametrize(
    "flags",
    [
        "--sequence.replay-period 5",
        "--sequence.trace-length 12",
        "--environment.arguments length=9",
        "--env CartPole-v1",
        "--family.beta-max 0.1",
        "--network.lstm-size 32",
        "--network.kind=single",
        "--learner.optimizer adamw",
        "--loss.td-scale policy",
        "--bandit.scope lane",
        "--intrinsic.novelty episodic",
    ],
)
def test_what_a_checkpoint_cannot_follow_is_refused(
    flags: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    trust = ["--trust-modules", "tests.fakes"]
    assert launch.main(["train", "--resume", str(finished), *trust, *flags.split(" ")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{flags.split(' ')[0].split('=')[0]} cannot change over a resume" in line
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("finished")
    run(tiny_config(), 400, run_dir, resume=False)
    return run_dir


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("evaluation", {"episodes": 3, "bandit_window": 5}),
        ("environment", {"max_episode_steps": 6}),
        ("intrinsic", {"memory_capacity": 50}),
        ("bandit", {"window": 7}),
        ("replay", {"capacity_steps": 2_000}),
        ("actor", {"steps_per_request": 7}),
    ],
)
def test_what_may_change_does(section: str, changes: dict[str, Any], finished: Path) -> None:
    config = load_config(finished / "config.json")
    changed = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **changes)})
    refuse_other_agent(config, changed)
    frames = int(Checkpoints(finished, 9).latest_or_error(pytest.fail).name) + 200
    run(changed, frames, finished, resume=True)


def test_the_environment_cannot_change_but_its_limits_may() -> None:
    config = tiny_config()
    limits = dataclasses.replace(config.environment, max_frames=5, noop_max=0, max_episode_steps=9)
    refuse_other_agent(config, dataclasses.replace(config, environment=limits))
    for changes in ({"frame_skip": 3}, {"full_action_set": True}, {"sticky_actions": 0.25}, {"arguments": ("a=1",)}):
        other = dataclasses.replace(config, environment=dataclasses.replace(config.environment, **changes))
        with pytest.raises(UserError, match=r"--environment\.[a-z-]+ cannot change over a resume \(the run has "):
            refuse_other_agent(config, other)


def test_minutes_count_from_the_first_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from the start of Ray, after which a run of a minute could be over before it began."""
    from cluster.runtime.serial_fleet import SerialFleet

    waits = iter(range(8))
    # Nothing is ready for a few turns of the loop, each longer than the run may take.
    monkeypatch.setattr(SerialFleet, "ready", lambda *_: next(waits, None) is None)
    monkeypatch.setattr(SerialFleet, "replay_ready", True)
    config = dataclasses.replace(tiny_config(), run_dir=str(tmp_path / "run"), max_minutes=1e-9)
    assert train(config, "smoke", None) == 0
    assert int(Checkpoints(tmp_path / "run", 9).latest_or_error(pytest.fail).name) > 0


def test_a_summary_offers_only_what_can_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cluster.runtime.supervisor import Supervisor

    monkeypatch.setattr(Supervisor, "save_checkpoint", lambda self: False)
    run(tiny_config(), 200, tmp_path / "run", resume=False)
    shown = capsys.readouterr().out
    assert "cannot go on" in shown
    assert "--resume" not in shown
    assert "launch.py eval" not in shown
