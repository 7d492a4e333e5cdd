"""Folders of private Rays: closed to others, removed by their owner or after its death, and never anybody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.on_ray.temporary_folder import LOCK, TemporaryFolder, remove_abandoned

ROOT = Path(__file__).resolve().parents[2]


def folders(parent: Path) -> list[Path]:
    return sorted(parent.glob("a57-*"))


def test_it_is_its_users_own_and_goes_with_its_owner(tmp_path: Path) -> None:
    temporary = TemporaryFolder(tmp_path)
    assert temporary.path.parent.stat().st_mode & 0o777 == 0o700
    temporary.path.mkdir()
    assert remove_abandoned(tmp_path) == 0, "its owner lives"
    temporary.remove()
    assert folders(tmp_path) == []


def test_what_a_killed_owner_leaves_is_removed_by_the_next_start(tmp_path: Path) -> None:
    code = f"""
import os, subprocess
from pathlib import Path
from cluster.on_ray.temporary_folder import TemporaryFolder
temporary = TemporaryFolder(Path({str(tmp_path)!r}))
temporary.path.mkdir()
(temporary.path / "log").write_text("x")
subprocess.Popen(["sleep", "3"])  # outlives it
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert len(folders(tmp_path)) == 1
    assert remove_abandoned(tmp_path) == 1
    assert folders(tmp_path) == []


@pytest.mark.parametrize("kind", ["no lock", "another's lock", "open to all", "a link", "a file", "a pipe"])
def test_what_others_made_stays(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "a57-12345678"
    contents = "" if kind == "another's lock" else "A private Ray of Agent57, process 1\n"
    if kind == "a file":
        folder.write_text(contents)
    elif kind == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        (tmp_path / "elsewhere" / LOCK).write_text(contents)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir(mode=0o777 if kind == "open to all" else 0o700)
        folder.chmod(0o755 if kind == "open to all" else 0o700)
        if kind == "a pipe":
            os.mkfifo(folder / LOCK)
        elif kind != "no lock":
            (folder / LOCK).write_text(contents)
    before = sorted(tmp_path.rglob("*"))
    assert remove_abandoned(tmp_path) == 0
    assert sorted(tmp_path.rglob("*")) == before
