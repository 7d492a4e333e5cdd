"""Runs that are stopped while something of theirs is broken: all end in time, and leave nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.on_ray.processes import begun_at, descendants
from cluster.run.checkpoint import Checkpoints
from tests.cluster.test_faults import launch, wait_for
from tests.cluster.test_ray_run import updates

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


class Training:
    """A small run of the command line, and all processes that it ever had."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.run_dir, self.checkpoints = folder / "run", Checkpoints(folder / "run", 2)
        small = "--preset smoke --cluster.num-workers 1 --evaluation.period-env-frames 0 --learner.device cpu"
        often = "--log-seconds 0.5 --checkpoint.period-minutes 0.05 --cluster.updates-per-request 2"
        env = [] if "--env" in flags else ["--env", "tests.fakes:Chain-v0"]
        self.process = launch("train", "--run-dir", str(self.run_dir), *small.split(), *often.split(), *env, *flags)
        self._known: dict[int, int] = {}

    def until_it_saved(self) -> None:
        wait_for(lambda: self.checkpoints.all(), self.process, "a checkpoint")
        self.look()

    def until_it_learned(self) -> None:
        wait_for(lambda: updates(self.run_dir) > 5, self.process, "learning")
        self.look()

    def look(self) -> None:
        self._known |= {pid: begun for pid in descendants([self.process.pid]) if (begun := begun_at(pid)) is not None}

    def pid(self, name: str) -> int:
        """Of the process of that name."""
        return next(pid for pid in self._known if Path(f"/proc/{pid}/comm").read_text().startswith(name))

    def ends(self, seconds: float) -> tuple[float, str]:
        """Seconds until the end, and what it said; nothing is left behind then."""
        begun = time.monotonic()
        try:
            said = self.process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"it went on for {seconds} s: {self.process.communicate()[0]}")
        took = time.monotonic() - begun
        deadline = time.monotonic() + 5
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left, "processes outlived the run"
        return took, said

    def left(self) -> list[int]:
        return [pid for pid, begun in self._known.items() if begun_at(pid) == begun]

    def kill(self) -> None:
        self.look()
        self.process.kill()
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def ray_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Short, as Ray's sockets need; empty again after a run."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)
        assert list(Path(folder).iterdir()) == []


@pytest.mark.parametrize("kind", ["ray::LearnerPro", "ray::ReplayPro"])
def test_a_process_that_stands_still_does_not_keep_the_run_from_stopping(
    kind: str, tmp_path: Path, ray_folder: Path
) -> None:
    run = Training(tmp_path, "--checkpoint.grace-seconds", "12")
    run.until_it_saved()
    os.kill(run.pid(kind), signal.SIGSTOP)
    # Requests in flight end, or stand still.
    time.sleep(2)
    saved = run.checkpoints.all()
    run.process.send_signal(signal.SIGTERM)
    took, said = run.ends(30)
    assert 7 < took < 15
    assert run.process.returncode == 1, said
    name = "learner 0" if "Learner" in kind else "replay 0"
    assert f"{name} did not answer in time" in said
    assert re.search(r"The newest checkpoint is \d+ s old", said)
    assert run.checkpoints.all()[-1] >= saved[-1]
    assert run.checkpoints.latest(pytest.fail) is not None
    print("SIGTERM beside", kind, round(took, 1))


def test_a_second_signal_ends_at_once(tmp_path: Path, ray_folder: Path) -> None:
    run = Training(tmp_path, "--checkpoint.grace-seconds", "600")
    run.until_it_saved()
    os.kill(run.pid("ray::LearnerPro"), signal.SIGSTOP)
    time.sleep(1)
    run.process.send_signal(signal.SIGTERM)
    time.sleep(2)
    assert run.process.poll() is None
    run.process.send_signal(signal.SIGTERM)
    took, said = run.ends(30)
    assert took < 7
    assert run.process.returncode == 128 + signal.SIGTERM, said
    print("second SIGTERM", round(took, 1))


def test_a_hangup_saves(tmp_path: Path, ray_folder: Path) -> None:
    run = Training(tmp_path, "--checkpoint.period-minutes", "60")
    run.until_it_learned()
    run.process.send_signal(signal.SIGHUP)
    took, said = run.ends(30)
    assert run.process.returncode == 0, said
    assert "SIGHUP: writing a checkpoint" in said
    assert run.checkpoints.latest(pytest.fail) is not None
    print("SIGHUP", round(took, 1))


def test_nobody_reads_the_console_any_more(tmp_path: Path, ray_folder: Path) -> None:
    """Its pipe is closed while Ray processes train: the run acts, learns and saves on, and ends as usual."""
    run = Training(tmp_path)
    run.until_it_learned()
    assert run.process.stdout is not None
    run.process.stdout.close()
    made = updates(run.run_dir)
    wait_for(lambda: updates(run.run_dir) > made + 20, run.process, "learning without a reader")
    saved = run.checkpoints.all()
    wait_for(lambda: run.checkpoints.all() != saved, run.process, "another checkpoint")
    begun = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(30) == 0
    print("closed console", round(time.monotonic() - begun, 1))
    wait_for_end = time.monotonic() + 5
    while run.left() and time.monotonic() < wait_for_end:
        time.sleep(0.1)
    assert not run.left()


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_private_ray_that_loses_a_process_of_its_own_ends_the_run(
    name: str, tmp_path: Path, ray_folder: Path
) -> None:
    run = Training(tmp_path, "--checkpoint.period-minutes", "60")
    run.until_it_learned()
    os.kill(run.pid(name), signal.SIGKILL)
    took, said = run.ends(40)
    assert run.process.returncode == 1, said
    called = {"raylet": "raylet", "gcs_server": "control store"}[name]
    assert f"Ray's own {called} was killed by SIGKILL" in said
    assert "--resume" in said
    assert "Traceback" not in said
    # Actors outlive the control store, but not the raylet.
    assert bool(run.checkpoints.all()) == (name == "gcs_server"), said
    print("without", name, round(took, 1), said[-3000:])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("seconds", [2.0, 7.0])
def test_a_start_that_is_interrupted_cleans_up(
    number: signal.Signals, seconds: float, tmp_path: Path, ray_folder: Path
) -> None:
    run = Training(tmp_path)
    time.sleep(seconds)
    run.look()
    run.process.send_signal(number)
    took, said = run.ends(40)
    assert "Traceback" not in said
    print(number, "during the start", round(took, 1), run.process.returncode, said[-200:])
