"""Reading files that somebody may have made to harm: no pipes or devices, no promises larger than the file.

Checkpoints, configs and replays are read through these; none of them can run code, hang, or fill the memory.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

LARGEST_JSON_BYTES = 1 << 28
"""Far above any state or configuration of this project."""


def open_plain(path: Path) -> BinaryIO:
    """``path``, opened for reading; OSError unless it is a regular file (a pipe may block, a device never end)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_json(path: Path) -> Any:
    """What the JSON file holds; OSError if it cannot be opened, ValueError if it is damaged, too large or too deep."""
    with open_plain(path) as file:
        content = file.read(LARGEST_JSON_BYTES + 1)
    if len(content) > LARGEST_JSON_BYTES:
        raise ValueError(f"it is larger than {LARGEST_JSON_BYTES >> 20} MiB")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an uncompressed ``.npz`` file by name; ValueError where one claims more than the file holds.

    OSError if it cannot be opened, zipfile.BadZipFile if it is no archive.
    """
    with open_plain(path) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        stored = sum(member.file_size for member in members)
        if stored > os.fstat(file.fileno()).st_size or any(m.compress_type != zipfile.ZIP_STORED for m in members):
            raise ValueError("its parts claim to be larger than the file")
        return {member.filename.removesuffix(".npy"): _read_array(archive, member) for member in members}


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as part:
        version = npy.read_magic(part)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(part)
        left = member.file_size - part.tell()
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds pickled objects, which could run code")
    if math.prod(shape) * dtype.itemsize > left:
        raise ValueError(f"{member.filename} claims the shape {shape} of {dtype}, more than the file holds")
    with archive.open(member) as part:
        return npy.read_array(part, allow_pickle=False)
