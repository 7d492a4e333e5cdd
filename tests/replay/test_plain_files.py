"""Files made to harm: none of them hangs the reader, fills its memory or runs code."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from replay import plain_files
from replay.plain_files import load_arrays, open_plain, read_json


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [fifo, endless_device, Path.mkdir])
@pytest.mark.parametrize("read", [open_plain, read_json, load_arrays])
def test_only_regular_files_are_read(
    make: Callable[[Path], None], read: Callable[[Path], object], tmp_path: Path
) -> None:
    make(tmp_path / "file")
    with pytest.raises(OSError, match=r"not a regular file|directory"):
        read(tmp_path / "file")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "\x00", "{", "\udcff"])
def test_json_that_is_no_json_or_too_deep_is_a_value_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError):  # noqa: PT011 (any message will do)
        read_json(tmp_path / "file")


def test_huge_json_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_files, "LARGEST_JSON_BYTES", 1 << 20)
    with open(tmp_path / "file", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="larger than"):
        read_json(tmp_path / "file")


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)


def claiming(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    """An array of this shape, of which only the first bytes are there."""
    buffer = io.BytesIO()
    npy.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(64)


@pytest.mark.parametrize("shape", [(1 << 37,), (1 << 62, 8), (1 << 20, 1 << 20), (9,)])
def test_a_header_cannot_claim_more_than_the_file_holds(shape: tuple[int, ...], tmp_path: Path) -> None:
    archive(tmp_path / "a.npz", {"a.npy": claiming(shape)})
    with pytest.raises(ValueError, match="more than the file holds"):
        load_arrays(tmp_path / "a.npz")


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    archive(tmp_path / "a.npz", {"a.npy": claiming((1 << 24,)) + bytes(1 << 27)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="larger than the file"):
        load_arrays(tmp_path / "a.npz")


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.array([{"code": "runs"}], dtype=object))
    with pytest.raises(ValueError, match="pickled"):
        load_arrays(tmp_path / "a.npz")


def test_what_numpy_wrote_comes_back(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6).reshape(2, 3),
        "f": np.asfortranarray(np.arange(6.0).reshape(3, 2)),
        "e": np.zeros((0, 4)),
        "s": np.array(2.5),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    found = load_arrays(tmp_path / "a.npz")
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
