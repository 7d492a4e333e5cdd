"""A disk that is full costs what it has no room for, whole, and nothing else; it is told once."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster.commands.train import train
from cluster.run import checkpoint_schedule
from cluster.run.checkpoint import Checkpoints, frames_of
from cluster.run.checkpoint_schedule import CheckpointSchedule
from cluster.telemetry.health import HealthWatch
from cluster.telemetry.metrics import METRICS_FILE, MetricLog, read_metrics
from replay.whole_files import GrowingFile
from tests.cluster.tiny import tiny_config


class Disk:
    """Writes go through until ``room`` bytes are used up; the piece that meets the end is torn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 10**9
        self._write = os.write
        monkeypatch.setattr("replay.whole_files.os.write", self.write)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._write(descriptor, bytes(data)[: self.room])
        self.room -= written
        return written


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize("room", range(0, 9))
def test_a_piece_without_room_leaves_no_part_of_itself(room: int, disk: Disk, tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "log", head=b"head;")
    file.append(b"first;")
    disk.room = room
    with pytest.raises(OSError, match="No space"):
        file.append(b"too long;" * 2)
    disk.room = 100
    file.append(b"last;")
    file.close()
    file.close()
    assert (tmp_path / "log").read_bytes() == b"head;first;last;"


def test_the_log_goes_on_when_there_is_room_again(disk: Disk, tmp_path: Path) -> None:
    log = MetricLog(tmp_path, None)
    log.scalars({"a": 1.0}, 1)
    assert log.lost() == (0, "")
    disk.room = 10
    for frames in (2, 3):
        log.scalars({"a": 2.0}, frames)
        log.text("run/events", "no room", frames)
    lost, why = log.lost()
    assert (lost, why) == (6, "No space left on device")
    disk.room = 10**6
    log.scalars({"a": 4.0}, 4)
    assert log.lost()[0] == 0
    log.close()
    lines = (tmp_path / METRICS_FILE).read_text().splitlines()
    assert [json.loads(line)["env_frames"] for line in lines] == [1, 4]
    assert read_metrics(tmp_path)["a"].values.tolist() == [1.0, 4.0]
    (events,) = tmp_path.glob("events.out.tfevents.*")
    shown = EventAccumulator(str(events)).Reload().Scalars("a")
    assert [(event.step, event.value) for event in shown] == [(1, 1.0), (4, 4.0)]


def test_checkpoints_that_fail_are_told_once_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, free = [0.0], [0]
    monkeypatch.setattr(checkpoint_schedule.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(CheckpointSchedule, "_room", lambda self: free[0])
    schedule = CheckpointSchedule(tmp_path, period_seconds=600)
    full = OSError(errno.ENOSPC, "No space left on device")
    assert not schedule.due()
    now[0] = 601
    assert schedule.due()
    assert "could not be written" in schedule.failed(full)
    assert not schedule.due()
    now[0] += 61
    assert schedule.due()
    assert schedule.failed(full) == ""
    # Sooner than in a minute, once there is room.
    now[0] += 6
    assert not schedule.due()
    free[0] = 1 << 30
    now[0] += 6
    assert schedule.due()
    assert "after 2" in schedule.written()
    assert schedule.written() == ""
    assert schedule.failure == ""


@pytest.mark.parametrize("room_at_first", [True, False])
def test_a_run_whose_last_checkpoint_has_no_room_says_so_and_fails(
    room_at_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(run_dir=str(tmp_path / "run"), max_env_frames=100)
    if room_at_first:
        assert train(config, "smoke", None) == 0

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cluster.run.checkpoint._write_manifest", full)
    config = dataclasses.replace(config, max_env_frames=200)
    assert train(config, "smoke", tmp_path / "run" if room_at_first else None) == 1
    told = capsys.readouterr().out
    assert "what came after is lost, for the last one could not be written (OSError: [Errno 28] No space" in told
    kept = Checkpoints(tmp_path / "run", 2).all()
    assert [frames_of(path) >= 100 for path in kept] == [True] * room_at_first


def test_a_disk_with_little_room_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = HealthWatch(tiny_config())
    assert watch.check_room([Path("/nowhere")]) == []
    monkeypatch.setattr("cluster.telemetry.health.shutil.disk_usage", lambda folder: SimpleNamespace(free=12e6))
    (told,) = watch.check_room([tmp_path])
    assert f"{tmp_path} has 12 MB left" in told
    assert watch.check_room([tmp_path]) == []
