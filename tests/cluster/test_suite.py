"""Suites: the games they hold, and runs that are started, resumed and skipped as they should be."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

import launch
from actors.environments.contract import atari_rom
from cluster.commands import side_by_side
from cluster.commands.suite import ATARI_5, ATARI_57, HARD, SUITES, Suite, SuiteRun, env_id
from cluster.run.errors import UserError

# Stands for launch.py: notes how it was called, "trains" to 1000 frames, or fails for seed 1 the first time.
FAKE_LAUNCHER = """
import json, pathlib, sys
arguments = sys.argv[1:]
value = lambda name: arguments[arguments.index(name) + 1] if name in arguments else None
folder = pathlib.Path(value("--run-dir") or value("--resume"))
calls = pathlib.Path(__file__).parent / "calls.jsonl"
seen = calls.read_text().count(folder.name) if calls.exists() else 0
with open(calls, "a") as file:
    file.write(json.dumps(arguments) + "\\n")
folder.mkdir(parents=True, exist_ok=True)
if folder.name.endswith("seed1") and not seen:
    (folder / "config.json").write_text("{}")
    sys.exit(1)
frames = int(value("--max-env-frames"))
checkpoint = folder / "checkpoints" / f"{frames:012d}"
checkpoint.mkdir(parents=True)
(checkpoint / "manifest.json").write_text("{}")
"""


def calls(root: Path) -> list[list[str]]:
    path = root / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "launch.py").write_text(FAKE_LAUNCHER)
    monkeypatch.setattr(side_by_side, "ROOT", tmp_path)
    monkeypatch.setattr(side_by_side, "POLL_SECONDS", 0.02)
    return tmp_path


def start(root: Path, *more: str, frames: int = 1000) -> int:
    arguments = ["suite", "atari5", "--games", "qbert", "phoenix", "--seeds", "2", "--folder", str(root / "suite")]
    return launch.main([*arguments, "--preset", "smoke", "--max-env-frames", str(frames), *more])


def test_suites_hold_games_that_exist() -> None:
    assert [len(games) for games in (ATARI_57, ATARI_5, HARD)] == [57, 5, 7]
    assert set(ATARI_5) | set(HARD) <= set(ATARI_57)
    assert [atari_rom(env_id(game)) for game in ATARI_57] == list(ATARI_57)


def test_runs_each_game_and_seed_and_goes_on_with_what_failed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(root) == 1
    assert len(calls(root)) == 4
    first = calls(root)[0]
    assert first[:3] == ["train", "--run-dir", str(root / "suite" / "qbert-seed0")]
    assert first[-4:] == ["--env", "ALE/Qbert-v5", "--seed", "0"]
    state = json.loads((root / "suite" / "suite.json").read_text())["runs"]
    assert [state[name]["state"] for name in sorted(state)] == ["finished", "failed", "finished", "failed"]
    assert "the same command again" in capsys.readouterr().out
    # The second time only the failed ones run, from the beginning: they had no checkpoint.
    assert start(root) == 0
    again = calls(root)[4:]
    assert [call[2].rsplit("/", 1)[1] for call in again] == ["qbert-seed1", "phoenix-seed1"]
    assert all(call[1] == "--run-dir" for call in again)
    assert start(root) == 0
    assert len(calls(root)) == 6


def test_a_longer_suite_resumes_its_runs(root: Path) -> None:
    start(root)
    start(root)
    before = len(calls(root))
    assert start(root, frames=2000) == 0
    later = calls(root)[before:]
    assert len(later) == 4
    assert all(call[1] == "--resume" and "--preset" not in call and "--env" not in call for call in later)
    assert all(call[-2:] == ["--max-env-frames", "2000"] for call in later)


def test_other_flags_need_another_folder(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(root)
    before = len(calls(root))
    assert start(root, "--learner.batch-size", "3") == 2
    assert "--folder" in capsys.readouterr().err
    assert len(calls(root)) == before


def test_runs_side_by_side_are_no_more_than_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = []
    original = side_by_side.subprocess.Popen
    alive: list = []

    def counted(*arguments: object, **options: object) -> object:
        process = original(*arguments, **options)  # type: ignore[call-overload]
        alive.append(process)
        at_once.append(sum(one.returncode is None for one in alive))
        return process

    monkeypatch.setattr(side_by_side.subprocess, "Popen", counted)
    start(root, "--parallel", "3")
    assert len(at_once) == 4
    assert max(at_once) <= 3


def test_a_signal_is_passed_on_and_nothing_new_starts(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first run sends SIGTERM to the suite and ends when it gets it back."""
    lines = "import os, signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(143))\nos.kill(os.getppid(), 15)\n"
    (root / "launch.py").write_text(lines + "print(sys.argv[1:])\ntime.sleep(60)\n")
    assert start(root) == 0
    said = capsys.readouterr().out
    assert "stopped qbert-seed0" in said
    assert "started qbert-seed1" not in said
    state = json.loads((root / "suite" / "suite.json").read_text())["runs"]
    assert [state[name]["state"] for name in state] == ["stopped", *["waiting"] * 3]
    assert "--run-dir" in (root / "suite" / "qbert-seed0.log").read_text()


def test_runs_under_way_end_with_an_exception_of_the_command(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "slow.py").write_text("import time\ntime.sleep(60)\n")
    (root / "quick.py").write_text("")
    alive: list[subprocess.Popen] = []
    original = side_by_side._start
    monkeypatch.setattr(side_by_side, "_start", lambda *given: alive.append(original(*given)) or alive[-1])
    runs = [SuiteRun("", number, root / str(number)) for number in range(2)]
    with pytest.raises(ZeroDivisionError):
        side_by_side.make_runs(runs, 2, lambda one: ["slow.py" if one.seed else "quick.py"], lambda *_: 1 // 0)
    assert alive[1].wait(10) == -signal.SIGTERM


MISTAKES = {
    "an unknown suite": (["atari99"], "atari57"),
    "a game of another suite": (["atari5", "--games", "pong", "--max-env-frames", "9"], "pong is not in atari5"),
    "no end": (["atari5"], "--max-env-frames"),
    "its own seeds": (["atari5", "--seed", "3", "--max-env-frames", "9"], "--seed is decided by the suite"),
    "a typo for training": (["atari5", "--learner.batchsize", "3", "--max-env-frames", "9"], "--learner.batch-size"),
    "no seeds": (["atari5", "--seeds", "0", "--max-env-frames", "9"], "at least 1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_sentence(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, hint = MISTAKES[mistake]
    assert launch.main(["suite", *arguments]) == 2
    error = capsys.readouterr().err
    assert hint in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_state_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "suite.json").write_text("{")
    with pytest.raises(UserError, match=r"suite\.json"):
        Suite(tmp_path, SUITES["atari5"], 1, [], 1000)
