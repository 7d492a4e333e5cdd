"""What is rewritten is replaced whole, or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from replay.whole_files import write_whole
from tests.full_disk import full_disk


def test_text_and_bytes_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_whole(path, "ü")
    assert path.read_bytes() == "ü".encode()
    with open(path, encoding="utf-8") as reader:
        write_whole(path, b"\xff")
        assert reader.read() == "ü", "whoever reads the old one reads it whole"
    assert path.read_bytes() == b"\xff"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_whole_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_whole(path, "old")
    with full_disk(1000), pytest.raises(OSError, match="too large"):
        write_whole(path, "new" * 1000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_whole(tmp_path / "link.json", "new")
    assert (tmp_path / "real.json").read_text() == "new"
    assert (tmp_path / "link.json").is_symlink()


def test_pipes_are_written_to(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    write_whole(path, "scores")
    reader.join(10)
    assert read == [b"scores"]
    assert path.is_fifo()
