"""A run's folder has one writer, nothing of others is taken over, and a start that fails can be repeated."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cluster.commands.train import train
from cluster.run.checkpoint import Checkpoints
from cluster.run.config import CheckpointConfig
from cluster.run.errors import TrainingStopped, UserError
from cluster.run.run_folder import LOCK_FILE, new_folder, owning
from cluster.telemetry.metrics import METRICS_FILE, read_metrics
from tests.cluster.tiny import tiny_config

KEEP_ONE = CheckpointConfig(keep=1)
HOLDER = """import fcntl, os, sys, time
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(descriptor, fcntl.LOCK_EX)
os.write(descriptor, b"process 77 on far-away since yesterday\\n")
print("held", flush=True)
time.sleep(600)
"""


def run(run_dir: Path, frames: int, resume: bool = False, **changes: Any) -> int:
    config = tiny_config(run_dir=str(run_dir), max_env_frames=frames, **changes)
    return train(config, "smoke", run_dir if resume else None)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / LOCK_FILE)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_writer_hears_who_the_first_is_and_a_crash_makes_room(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(UserError, match="process 77 on far-away since yesterday"), owning(tmp_path, pytest.fail):
        pass
    holder.kill()
    holder.wait()
    with owning(tmp_path, pytest.fail):
        assert str(os.getpid()) in (tmp_path / LOCK_FILE).read_text()
        with pytest.raises(UserError, match="is being written by process"), owning(tmp_path, pytest.fail):
            pass


def test_a_second_resume_changes_nothing(tmp_path: Path) -> None:
    run(tmp_path, 300)
    with owning(tmp_path, pytest.fail):
        before = everything(tmp_path)
        with pytest.raises(UserError, match="is being written by"):
            run(tmp_path, 600, resume=True)
        assert everything(tmp_path) == before


def test_a_filesystem_without_locks_is_told_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    told: list[str] = []
    with owning(tmp_path, told.append):
        pass
    assert len(told) == 1
    assert "no second process" in told[0]


def test_starts_of_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(new_folder, [tmp_path / "runs" / "name"] * 16))
    assert len(set(folders)) == 16
    assert sorted(folder.name for folder in folders)[:3] == ["name", "name-10", "name-11"]


def test_what_a_run_would_not_write_is_left_alone(tmp_path: Path) -> None:
    others = [tmp_path / "checkpoints" / name / "thesis.pt" for name in ("20261126", "best", ".tmp-mine")]
    for precious in others:
        precious.parent.mkdir(parents=True)
        precious.write_text("precious")
    assert run(tmp_path, 300) == 0
    assert run(tmp_path, 600, resume=True) == 0
    assert [precious.read_text() for precious in others] == ["precious"] * 3
    assert Checkpoints(tmp_path, 1).latest(pytest.fail) is not None


@pytest.mark.parametrize(
    "left_by_others",
    ["checkpoints/000000000300/thesis.pt", "checkpoints", METRICS_FILE, "versions.json", "config.json"],
)
def test_what_a_run_would_write_over_is_refused(left_by_others: str, tmp_path: Path) -> None:
    precious = tmp_path / left_by_others
    precious.parent.mkdir(parents=True, exist_ok=True)
    precious.write_text("{}" if left_by_others != "config.json" else '{"model_type": "bert"}')
    before = everything(tmp_path)
    with pytest.raises(UserError, match="is there already"):
        run(tmp_path, 300)
    assert everything(tmp_path) == before | {LOCK_FILE: b""}


def test_a_resumed_run_removes_only_its_own_checkpoints(tmp_path: Path) -> None:
    for name in ("mine", "other"):
        run(tmp_path / name, 300)
    (other,) = Checkpoints(tmp_path / "other", 1).all()
    moved = other.rename(tmp_path / "mine" / "checkpoints" / "000000000100")
    run(tmp_path / "mine", 400, resume=True, checkpoint=KEEP_ONE)
    run(tmp_path / "mine", 500, resume=True, checkpoint=KEEP_ONE)
    left = Checkpoints(tmp_path / "mine", 1).all()
    assert left[0] == moved
    assert len(left) == 2


def test_a_failed_resume_leaves_the_run_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, 300)
    before = everything(tmp_path)

    def fail(self: object, checkpoint: Path) -> None:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr("cluster.runtime.serial_fleet.SerialFleet.start", fail)
    with pytest.raises(UserError, match="size mismatch"):
        run(tmp_path, 600, resume=True)
    assert everything(tmp_path) == before


def test_a_start_that_ended_before_its_first_checkpoint_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_down(self: object) -> bool:
        raise TrainingStopped("a crash loop")

    with monkeypatch.context() as patch:
        patch.setattr("cluster.runtime.supervisor.Supervisor.save_checkpoint", break_down)
        with pytest.raises(TrainingStopped):
            run(tmp_path, 300)
    assert (tmp_path / METRICS_FILE).exists()
    with pytest.raises(UserError, match=f"start the run again with --run-dir {tmp_path}"):
        run(tmp_path, 300, resume=True)
    assert run(tmp_path, 200) == 0
    assert "begun anew" in capsys.readouterr().out
    assert max(read_metrics(tmp_path)["replay/ratio"].env_frames) < 300
    with pytest.raises(UserError, match="already holds a run: go on with --resume"):
        run(tmp_path, 200)


def test_a_start_that_fails_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise UserError("Ray could not start")

    monkeypatch.setattr("cluster.commands.train._make_fleet", fail)
    with pytest.raises(UserError, match="Ray could not"):
        run(tmp_path / "run", 300)
    assert list(tmp_path.iterdir()) == []
