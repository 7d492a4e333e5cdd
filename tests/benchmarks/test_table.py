"""`python -m benchmarks`: its rows, what it says of what it cannot measure, and its comparison with earlier rows."""

from __future__ import annotations

import ast
import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import benchmarks.__main__ as table
from agent57.novelty.episodic_memory import EpisodicMemory
from benchmarks.__main__ import GPU_PARTS, PARTS, Part, main, run_part
from benchmarks.acting import filled_memory
from benchmarks.drift import drift_figures
from benchmarks.measure import Figure, against, alternating_medians, report, shares
from benchmarks.process_cpu import descendants

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "benchmarks" / "committed.json"


@pytest.mark.parametrize(
    ("target", "ratio", "met"),
    [(">= 0.9", 0.91, True), (">= 0.9", 0.89, False), ("<= 0.1", 0.1, True), ("< 1", 1.0, False), ("", 0.5, None)],
)
def test_targets_are_judged_by_the_ratio(target: str, ratio: float, met: bool | None) -> None:
    assert Figure("figure", 3.0, "s", 1.0, ratio, target).met is met


def test_a_target_without_a_ratio_judges_the_value() -> None:
    assert Figure("start", 12.0, "s", target="<= 20").met
    assert Figure("start", None, "s", target="<= 20").met is None


def test_the_table_shows_missed_targets_and_what_was_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    slow = against("acting", 50.0, "steps/s", 100.0, ">= 0.85", "networks 60 %")
    report([slow, Figure("gpu", None, "", where="no GPU here")], as_json=False)
    out = capsys.readouterr().out
    assert "ratio 0.50" in out
    assert "MISSED" in out
    assert "networks 60 %" in out
    assert "not measured: no GPU here" in out


def test_rows_survive_json(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [against("acting", 50.0, "steps/s", 100.0, ">= 0.85"), Figure("gpu", None, "")]
    report(rows, as_json=True)
    loaded = json.loads(capsys.readouterr().out)
    assert [Figure(**row) for row in loaded] == rows
    assert {"name", "value", "unit", "limit", "ratio", "target"} <= set(loaded[0])


def test_medians_of_calls_in_turn() -> None:
    order: list[str] = []
    seconds = alternating_medians([lambda: order.append("a"), lambda: order.append("b")], 3)
    assert order == ["a", "b"] * 3
    assert all(0 <= each < 1 for each in seconds)


def test_shares_name_the_rest() -> None:
    assert shares({"small": 1.0, "large": 6.0}, 10.0) == "large 60.0 %, small 10.0 %, rest 30.0 %"


def test_a_part_without_its_packages_is_named() -> None:
    (row,) = run_part(Part("scale", "benchmarks.scale", needs=("no_such_package",)), ())
    assert (row.name, row.value) == ("scale", None)
    assert row.where == "needs no_such_package"


def test_a_part_that_fails_says_so() -> None:
    (row,) = run_part(Part("long run", "benchmarks.drift"), ("/no/such/run",))
    assert row.value is None
    assert "benchmarks.drift failed" in row.where


@pytest.mark.parametrize(("later", "code"), [(0.8, 0), (0.5, 1)])
def test_what_is_worse_is_measured_again_before_it_counts(
    later: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ratios = itertools.chain([0.4], itertools.repeat(later))
    monkeypatch.setattr(table, "run_part", lambda part, flags: [against("speed", next(ratios), "", 1.0, ">= 0.7")])
    assert main(["--short", "--only", "learner", "--check", committed_speed(tmp_path)]) == code
    assert ("worse by more than a quarter: speed" in capsys.readouterr().err) == bool(code)


def test_a_part_that_breaks_down_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Figure("acting", None, "", where="benchmarks.acting failed: KeyError")
    sound = against("speed", 0.8, "", 1.0, ">= 0.7")
    monkeypatch.setattr(table, "run_part", lambda part, flags: [broken if part.name == "acting" else sound])
    assert main(["--short", "--check", committed_speed(tmp_path)]) == 1
    assert "benchmarks.acting failed: KeyError" in capsys.readouterr().err


def committed_speed(folder: Path) -> str:
    path = folder / "committed.json"
    path.write_text(json.dumps([asdict(against("speed", 0.8, "", 1.0, ">= 0.7"))]))
    return str(path)


def test_wrong_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--only", "nothing"], "no part is called"),
        (["--check", "no.json"], "does not exist"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_network_and_learner_parts_need_neither_ray_nor_emulators() -> None:
    script = """
import sys
for package in ("ray", "gymnasium", "ale_py", "zstandard", "tensorboard"):
    sys.modules[package] = None
from benchmarks import learner, networks
import benchmarks.__main__
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
    parts = [part for part in (*PARTS, *GPU_PARTS) if part.module in ("benchmarks.learner", "benchmarks.networks")]
    assert len(parts) >= 4
    assert not any(part.needs for part in parts)


def test_the_committed_rows_belong_to_the_short_form() -> None:
    rows = [Figure(**row) for row in json.loads(COMMITTED.read_text())]
    names = {row.name for row in rows if row.ratio is not None}
    assert any(name.startswith("acting, ALE/Pong-v5") for name in names)
    assert any(name.startswith("learner update") for name in names)
    assert any(name.startswith("episodic memory") for name in names)
    assert len(names) >= 6


def test_the_rivals_script_stands_alone() -> None:
    tree = ast.parse((ROOT / "benchmarks" / "rival_replay.py").read_text())
    top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    top |= {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in top} <= set(sys.stdlib_module_names) | {"numpy", "__future__"}


def test_a_filled_memory_holds_what_it_says() -> None:
    memory, embeddings = filled_memory(EpisodicMemory(3, 100, 4), 3, 5_000)
    assert memory.sizes.tolist() == [5_000] * 3
    assert embeddings.shape == (3, 4)
    assert (memory.bonus(embeddings) > 0).all()
    assert memory.sizes.tolist() == [5_001] * 3


def test_descendants_are_found_over_generations() -> None:
    script = "import subprocess, sys, time; subprocess.Popen(['sleep', '57.57']); print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        grandchild, deadline = 0, time.monotonic() + 20
        while not grandchild and time.monotonic() < deadline:
            family = descendants(os.getpid())
            found = (pid for pid, command in family.items() if "57.57" in command and "sleep" in command[:12])
            grandchild = next(found, 0)
        assert grandchild in descendants(process.pid)
        assert os.getpid() not in descendants(process.pid)
    finally:
        process.kill()
        process.wait()
        os.kill(grandchild, 9)


def write_run(folder: Path, minutes: int, leak: float = 0.0, slowing: float = 0.0) -> Path:
    """Metrics of a run that logs twice a minute; the replay is full after ten minutes."""
    with open(folder / "metrics.jsonl", "w") as file:
        for point in range(2 * minutes + 1):
            minute = point / 2
            rate = 1000 * (1 - slowing * minute)
            row = {
                "env_frames": int(minute * 60_000),
                "minutes": minute,
                "rate/learner_updates": 600 * minute,
                "rate/env_frames_per_second": rate,
                "rate/updates_per_second": 10.0,
                "replay/steps": min(minute, 10) * 20_000,
                "memory_mb/learner": 500 + leak * minute,
            }
            file.write(json.dumps(row) + "\n")
    return folder


def test_a_steady_run_does_not_drift(tmp_path: Path) -> None:
    rows = drift_figures(write_run(tmp_path, 60))
    assert len(rows) == 3
    assert all(row.met for row in rows)


def test_leaks_and_slowing_are_seen(tmp_path: Path) -> None:
    rows = {row.name: row for row in drift_figures(write_run(tmp_path, 60, leak=2.0, slowing=0.005))}
    assert [row.met for row in rows.values()] == [False, True, False]


def test_a_short_run_says_nothing_about_drift(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trained for 20 minutes"):
        drift_figures(write_run(tmp_path, 20))


def test_rows_are_plain_data() -> None:
    row = against("acting", np.float64(2.0), "steps/s", 4.0)
    assert json.dumps(asdict(row))
