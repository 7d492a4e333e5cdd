"""Kills in the middle of a checkpoint, a disk that fills and empties, two writers: with real processes and a real disk.

``pytest -m faults``; what is lost and how long it takes is in docs/architecture.md.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.commands.train import train
from cluster.run.checkpoint import Checkpoints, frames_of, load_tree
from cluster.run.config import CheckpointConfig
from cluster.telemetry.metrics import METRICS_FILE, read_metrics
from tests.cluster.running import Run
from tests.cluster.test_faults import config_of, events
from tests.cluster.test_serial_run import assert_same, flatten
from tests.cluster.tiny import tiny_config

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]
ROOT = Path(__file__).resolve().parents[2]
KILLS = 20
WHOLE_FRAMES = 8000
EVERY_TICK = CheckpointConfig(period_minutes=1e-9, keep=2)


def train_on(run_dir: Path, frames: int, checkpoint: CheckpointConfig, resume: bool) -> None:
    """Run in a process of its own or in this one."""
    config = tiny_config(run_dir=str(run_dir), max_env_frames=frames, checkpoint=checkpoint)
    assert train(config, "smoke", run_dir if resume else None) == 0


def test_kills_in_the_middle_of_checkpoints_lose_nothing_of_the_one_before(tmp_path: Path) -> None:
    """kill -9 at random moments of a checkpoint, 20 times: always a loadable one, then the same end to the last bit."""
    run_dir, whole = tmp_path / "killed", tmp_path / "whole"
    train_on(run_dir, 100, EVERY_TICK, resume=False)
    checkpoints, chance = Checkpoints(run_dir, 2), random.Random(0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.cluster.test_disk_faults"])
    half_written, waits = 0, []
    for _ in range(KILLS):
        before = frames_of(checkpoints.latest_or_error(pytest.fail))
        process = context.Process(target=train_on, args=(run_dir, WHOLE_FRAMES, EVERY_TICK, True))
        process.start()
        began, seen = time.monotonic(), set()
        # Of the second or the third checkpoint, so that the run gets on.
        for _ in range(chance.randint(2, 3)):
            while not (new := {path.name for path in checkpoints.directory.glob(".tmp-*")} - seen):
                assert process.is_alive(), "it ended before it was killed"
                assert time.monotonic() < began + 300
            seen |= new
        time.sleep(chance.uniform(0, 0.05))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        half_written += bool(list(checkpoints.directory.glob(".tmp-*")))
        began = time.monotonic()
        newest = checkpoints.latest_or_error(pytest.fail)
        for name in ("learner", "supervisor", "serial"):
            load_tree(newest, name)
        waits.append(time.monotonic() - began)
        assert frames_of(newest) >= before
    print(f"{half_written} of {KILLS} kills left a half-written one; found and loaded within {max(waits):.2f} s")
    assert half_written > 0
    train_on(run_dir, WHOLE_FRAMES, CheckpointConfig(), resume=True)
    train_on(whole, WHOLE_FRAMES, CheckpointConfig(), resume=False)
    ends = [Checkpoints(folder, 2).latest_or_error(pytest.fail) for folder in (run_dir, whole)]
    for name in ("learner", "supervisor", "serial"):
        assert_same(*(flatten(load_tree(end, name)) for end in ends))
    assert not list(checkpoints.directory.glob(".*")), "the next owner cleaned up"


class SmallDisk:
    """A filesystem of its own that can be filled to the last byte."""

    def __init__(self, path: Path) -> None:
        self.path, self._filler = path, path / "filler"

    def fill(self) -> None:
        with contextlib.suppress(OSError), open(self._filler, "ab", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)

    def empty(self) -> None:
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small filesystem is not allowed here")
    yield SmallDisk(path)
    subprocess.run(["umount", "-l", str(path)], check=True)


def until(condition: Callable[[], object], what: str, process: subprocess.Popen[str] | None = None) -> float:
    began = time.monotonic()
    while not condition():
        assert process is None or process.poll() is None, f"it ended while waiting for {what}"
        assert time.monotonic() < began + 300, f"{what} did not happen"
        time.sleep(0.05)
    return time.monotonic() - began


def told(output: Path, text: str, times: int, process: subprocess.Popen[str]) -> float:
    """Seconds until the run has said ``text`` so many times, and no more."""
    took = until(lambda: output.read_text().count(text) >= times, text, process)
    assert output.read_text().count(text) == times
    return took


def launch(output: Path, *arguments: str) -> subprocess.Popen[str]:
    with open(output, "w") as file:
        return subprocess.Popen(
            [sys.executable, "launch.py", "train", *arguments],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
        )


SERIAL = [
    *("--preset", "smoke", "--serial", "--env", "CartPole-v1", "--log-seconds", "1"),
    *("--checkpoint.period-minutes", "0.03", "--evaluation.period-env-frames", "0", "--replay.capacity-steps", "4000"),
]


@pytest.mark.parametrize("rounds", [2])
def test_a_serial_run_outlives_a_full_disk(rounds: int, disk: SmallDisk, tmp_path: Path) -> None:
    run_dir, output = disk.path / "run", tmp_path / "output"
    process = launch(output, *SERIAL, "--run-dir", str(run_dir))
    checkpoints = Checkpoints(run_dir, 2)
    until(lambda: len(checkpoints.all()) == 2, "two checkpoints", process)
    for number in range(1, rounds + 1):
        disk.fill()
        told(output, "the log cannot be written", number, process)
        told(output, "the checkpoint could not be written", number, process)
        kept = checkpoints.latest_or_error(pytest.fail)
        time.sleep(3)
        assert checkpoints.latest_or_error(pytest.fail) == kept
        disk.empty()
        log = told(output, "the log is written again", number, process)
        saved = told(output, "a checkpoint was written again", number, process)
        print(f"after there was room: log {log:.1f} s, checkpoint {log + saved:.1f} s")
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0, output.read_text()
    assert re.search(r"cannot be written \(No space left on device\)", output.read_text())
    rows = (run_dir / METRICS_FILE).read_text().splitlines()
    assert all(row.startswith('{"env_frames"') and row.endswith("}") for row in rows), "no line is torn"
    shown = events(run_dir)
    assert "is written again" in shown, "TensorBoard reads on after the gap"
    assert checkpoints.latest(pytest.fail) is not None


def test_a_run_that_ends_on_a_full_disk_says_what_is_lost(disk: SmallDisk, tmp_path: Path) -> None:
    """Its own output goes to the full disk, too; the exit code tells."""
    run_dir = disk.path / "run"
    process = launch(disk.path / "output", *SERIAL, "--run-dir", str(run_dir))
    checkpoints = Checkpoints(run_dir, 2)
    until(lambda: checkpoints.all(), "a checkpoint", process)
    disk.fill()
    time.sleep(5)
    kept = checkpoints.latest_or_error(pytest.fail)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 1
    assert checkpoints.latest_or_error(pytest.fail) == kept
    disk.empty()
    resumed = launch(tmp_path / "resumed", "--resume", str(run_dir), "--max-env-frames", str(frames_of(kept) + 400))
    assert resumed.wait(120) == 0, (tmp_path / "resumed").read_text()


def test_a_run_on_ray_outlives_a_full_disk(disk: SmallDisk) -> None:
    run_dir = disk.path / "run"
    run = Run(config_of(), run_dir)
    supervisor, checkpoints = run.supervisor, Checkpoints(run_dir, 2)
    try:
        run.wait_until(checkpoints.all, "a checkpoint")
        disk.fill()
        run.wait_until(lambda: supervisor.schedule.failures > 0, "a checkpoint that fails")
        kept = checkpoints.latest_or_error(pytest.fail)
        run.goes_on("on a full disk", frames=1000)
        assert checkpoints.latest_or_error(pytest.fail) == kept
        assert supervisor.state.restarts == 0
        disk.empty()
        took = run.wait_until(lambda: not supervisor.schedule.failures, "a checkpoint")
        run.wait_until(lambda: "is written again" in events(run_dir), "the log")
        print(f"after there was room: checkpoint {took:.1f} s")
        assert frames_of(checkpoints.latest_or_error(pytest.fail)) > frames_of(kept)
    finally:
        run.stop()
    assert supervisor.state.restarts == 0
    assert read_metrics(run_dir)["replay/ratio"].env_frames[-1] >= frames_of(checkpoints.all()[-1])


def test_of_two_resumes_one_is_refused(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train_on(run_dir, 200, CheckpointConfig(), resume=False)
    outputs = [tmp_path / name for name in "ab"]
    flags = ["--resume", str(run_dir), "--trust-modules", "tests.fakes", "--max-env-frames", "600000"]
    processes = [launch(output, *flags) for output in outputs]
    until(lambda: any(process.poll() is not None for process in processes), "a refusal")
    codes = [process.poll() for process in processes]
    assert sorted(codes, key=str) == [2, None]
    assert f"is being written by process {processes[codes.index(None)].pid}" in outputs[codes.index(2)].read_text()
    told(outputs[codes.index(None)], "resumed at", 1, processes[codes.index(None)])
    processes[codes.index(None)].send_signal(signal.SIGTERM)
    assert processes[codes.index(None)].wait(120) == 0
