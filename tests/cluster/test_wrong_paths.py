"""Paths that cannot be: every command says so in one sentence, before it works, and leaves everything as it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import launch
from cluster.commands.train import train
from tests.cluster.tiny import tiny_config


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train(dataclasses.replace(tiny_config(), run_dir=str(folder), max_env_frames=200), "smoke", None) == 0
    return folder


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder.mp4").mkdir()
    return {
        "folder": str(tmp_path / "folder.mp4"),
        "nowhere": str(tmp_path / "missing" / "a.mp4"),
        "below a file": str(tmp_path / "file" / "a.mp4"),
        "too long": str(tmp_path / ("x" * 300 + ".mp4")),
        "kernel": "/proc/a.mp4",
        "nothing": "",
    }


PLACES = ("folder", "nowhere", "below a file", "too long", "kernel", "nothing")


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert launch.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "", "nothing was done before"
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("flag", ["--json", "--csv", "--video"])
def test_eval_looks_before_it_plays(
    flag: str,
    place: str,
    places: dict[str, str],
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("cluster.commands.evaluation.load_agent", lambda *_: pytest.fail("it began"))
    line = refused(["eval", str(run_dir), flag, places[place]], capsys)
    assert flag in line or "too long" in line


@pytest.mark.parametrize("place", PLACES)
def test_report_looks_before_it_reads(
    place: str,
    places: dict[str, str],
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("cluster.commands.report.command.load_runs", lambda *_: pytest.fail("it began"))
    line = refused(["report", str(run_dir), "--output", places[place]], capsys)
    assert "--output" in line or "too long" in line


def test_export_looks_before_it_loads(
    places: dict[str, str], run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cluster.commands.export.load_agent", lambda *_: pytest.fail("it began"))
    assert "--output" in refused(["export", str(run_dir), "--output", places["below a file"]], capsys)


def test_looking_changes_nothing(tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, new = tmp_path / "kept.json", tmp_path / "new.csv"
    kept.write_text("precious")
    wrong = ["--policy-index", "99"]
    refused(
        ["eval", str(run_dir), "--trust-modules", "tests.fakes", "--json", str(kept), "--csv", str(new), *wrong], capsys
    )
    assert (kept.read_text(), new.exists()) == ("precious", False)
    assert "a file each" in refused(["eval", str(run_dir), "--json", str(new), "--csv", str(new)], capsys)


@pytest.mark.parametrize("text", ["[]", "null", "5", "", '{"flags": 1, "runs": {}}', '{"flags": [], "runs": {"a": 1}}'])
def test_a_damaged_suite_file_is_one_sentence(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "suite.json").write_text(text)
    line = refused(["suite", "atari5", "--max-env-frames", "9", "--folder", str(tmp_path)], capsys)
    assert "suite.json cannot be read" in line


@pytest.mark.parametrize(
    "arguments",
    [
        "eval {run} --episodes 1e9",
        "eval {run} --lanes 99999999",
        "eval {run} --seed -1",
        "eval {run} --seed 99999999999999999999999",
        "eval {run} --video a.avi",
        "suite atari5 --seeds 9999999999 --max-env-frames 9",
        "suite atari5 --parallel 0 --max-env-frames 9",
        "suite atari5 --max-env-frames 9 --environment.arguments size=9",
        "train --env CartPole-v1 --preset smoke --serial --replay.max-gb 1e-9",
        "train --env CartPole-v1 --preset smoke --serial --network.lstm-size 8192 --replay.max-gb 1000000",
    ],
)
def test_numbers_beyond_sense(arguments: str, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(arguments.format(run=run_dir).split(" "), capsys)


def test_a_temporary_folder_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "missing"))
    line = refused(["train", "--preset", "smoke", "--env", "CartPole-v1", "--run-dir", str(tmp_path / "run")], capsys)
    assert "RAY_TMPDIR" in line
    assert list(tmp_path.iterdir()) == []
