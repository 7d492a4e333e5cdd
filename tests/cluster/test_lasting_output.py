"""A console that nobody reads any more, or that has few letters, costs lines and never the run."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import launch
from cluster.run.checkpoint import Checkpoints
from cluster.telemetry.metrics import read_metrics

ROOT = Path(__file__).resolve().parent.parent.parent
TRAIN = ["train", "--preset", "smoke", "--serial", "--env", "CartPole-v1", "--log-seconds", "0.1"]


def pipe_without_reader() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_training_goes_on_when_its_reader_has_gone(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = [sys.executable, "launch.py", *TRAIN, "--run-dir", str(run_dir), "--max-env-frames", "1500"]
    writer = pipe_without_reader()
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(Checkpoints(run_dir, 9).latest_or_error(pytest.fail).name) >= 1500
    assert read_metrics(run_dir)
    (events,) = run_dir.glob("events*")
    assert b"nobody reads the console" in events.read_bytes()


@pytest.mark.parametrize("arguments", [["train", "--help"], ["eval", "--help"], ["--help"], ["nonsense"]])
@pytest.mark.parametrize("kind", ["no reader", "full"])
def test_any_command_ends_as_usual_whatever_becomes_of_its_words(
    arguments: list[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "full" and not Path("/dev/full").exists():
        pytest.skip("needs a device that is always full")
    descriptor = pipe_without_reader() if kind == "no reader" else os.open("/dev/full", os.O_WRONLY)
    with os.fdopen(descriptor, "w") as dead:
        monkeypatch.setattr(sys, "stdout", dead)
        monkeypatch.setattr(sys, "stderr", dead)
        try:
            code = launch.main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
    assert code == (2 if arguments == ["nonsense"] else 0)


@pytest.mark.parametrize("name", ["größe", "\udce4"])
def test_a_path_beyond_the_letters_of_the_stream_is_escaped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    assert launch.main(["eval", f"missing/{name}"]) == 2
    assert name.encode("ascii", "backslashreplace") in written.getvalue()


def test_a_name_that_is_no_text_is_refused_before_it_becomes_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["train", "--run-dir", "\udce4"]) == 2
    assert "UTF-8" in capsys.readouterr().err


def test_the_streams_are_given_back() -> None:
    before = sys.stdout, sys.stderr
    launch.main(["--help"])
    assert (sys.stdout, sys.stderr) == before
