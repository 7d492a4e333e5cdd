"""What processes print is kept in a file of the run that stays small, whoever prints how much."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.on_ray.process_output import trim
from cluster.run.failures import keep_failure

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, path: Path, check: bool = True) -> None:
    begin = "import os, subprocess, sys, time\nfrom pathlib import Path\nfrom cluster.on_ray import process_output\n"
    begin += "process_output.FIRST_BYTES = process_output.LAST_BYTES = 10_000\nprocess_output.LOOK_SECONDS = 0.02\n"
    code = f"{begin}process_output.keep_output(Path({str(path)!r}))\n{code}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=check, stdout=subprocess.DEVNULL)


def test_a_process_that_prints_for_ever_leaves_its_first_and_last_words(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "worker-0.txt"
    code = """
print("first words")
begun = time.monotonic()
child = subprocess.Popen("while true; do echo of a child; sleep 0.01; done", shell=True)
while time.monotonic() < begun + 0.5:
    print("x" * 200)
    time.sleep(0.001)
child.kill()
time.sleep(0.1)
sys.stderr.write("last words\\n")
"""
    run(code, path)
    kept = path.read_text()
    assert len(kept) < 60_000
    assert "first words" in kept
    assert "of a child" in kept
    assert kept.count("are left out here") == 1
    assert kept.endswith("last words\n")


def test_the_words_of_a_crash_are_there_and_those_of_the_next_life_follow(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "worker-0.txt"
    run(
        'import faulthandler\nfaulthandler.enable()\nos.write(1, b"in C\\n")\nos.kill(os.getpid(), 11)',
        path,
        check=False,
    )
    run('print("another life")', path)
    kept = path.read_text()
    assert kept.index("in C") < kept.index("Segmentation fault") < kept.index("another life")
    assert kept.count("--- process") == 2


def test_a_folder_that_cannot_be_written_costs_the_log_only(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    run('print("fine")', tmp_path / "logs" / "worker-0.txt")


def test_a_trim_keeps_both_ends_and_says_how_much_went(tmp_path: Path) -> None:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, b"a" * 10 + b"-" * 100 + b"z" * 10)
    assert trim(descriptor, 0, 40, 40) == 0
    assert trim(descriptor, 900, 10, 10) == 100
    assert path.read_text() == "a" * 10 + "\n--- 1,000 bytes are left out here\n" + "z" * 10
    os.write(descriptor, b"!")
    assert path.read_text().endswith("z!")


@pytest.mark.parametrize("chained", [False, True])
def test_a_failure_is_kept_with_its_notes_and_causes(chained: bool, tmp_path: Path) -> None:
    cause = ValueError("the cause")
    cause.add_note("raised by lane 3")
    try:
        raise RuntimeError("the failure") from (cause if chained else None)
    except RuntimeError as error:
        error.add_note("of the second kind")
        keep_failure(tmp_path, ("worker", 1), error)
    kept = (tmp_path / "failures" / "worker-1.txt").read_text()
    assert "of the second kind" in kept
    assert ("raised by lane 3" in kept) == chained
