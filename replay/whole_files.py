"""Writing files so that a full disk, a kill or a power cut leaves no half of one.

`write_whole` is for files that are rewritten: configurations, reports, tables, policies. `GrowingFile` is for logs,
`ChecksummedFile` for the parts of a checkpoint.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import zlib
from dataclasses import dataclass
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write or replace the file ``path``: on any error (OSError) what was there before is still there, whole.

    Text is UTF-8. A link is followed; a pipe or a device, such as /dev/stdout, is written to as it is.
    """
    target = Path(os.path.realpath(path))
    data = content.encode() if isinstance(content, str) else content
    if target.exists() and not target.is_file():
        with target.open("wb") as file:
            file.write(data)
        return
    part = target.with_name(f".part-{secrets.token_hex(4)}")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
        sync(target.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class GrowingFile:
    """A file that grows by whole pieces: of one for which the disk has no room, nothing stays.

    Made when the first piece comes, with ``head`` before it. Every piece is handed to the system at once, so a kill
    loses none.
    """

    def __init__(self, path: Path, head: bytes = b"") -> None:
        self.path, self._head = path, head
        self._descriptor = -1
        self._end = 0
        self._torn = False

    def append(self, piece: bytes) -> None:
        """Add ``piece``; OSError if it could not be written, after which others may be tried."""
        if self._descriptor < 0:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            self._end = os.fstat(self._descriptor).st_size
        self._cut()
        left = memoryview(piece if self._end else self._head + piece)
        size = len(left)
        self._torn = True
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._cut()
            raise
        self._torn = False
        self._end += size

    def _cut(self) -> None:
        if self._torn:
            os.ftruncate(self._descriptor, self._end)
            self._torn = False

    def close(self) -> None:
        """Release the file; harmless when called twice, and whatever the disk says."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1


@dataclass(frozen=True)
class Written:
    """Size and CRC-32 of a file, known from writing it."""

    bytes: int
    crc32: int


class ChecksummedFile:
    """A new file that is written from front to back, and adds up what it is given; a context manager.

    At a clean end it is on the disk, and ``written`` says what is in it: nobody need read it back.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._size = self._checksum = 0

    def write(self, piece: bytes | memoryview) -> int:
        """Add ``piece``; archives write to it too, since it is no place to jump around in."""
        self._file.write(piece)
        size = memoryview(piece).nbytes
        self._size += size
        self._checksum = zlib.crc32(piece, self._checksum)
        return size

    def read(self, _: int = -1) -> bytes:
        """Not to be called; numpy takes nothing for a file that has no such method."""
        raise io.UnsupportedOperation("it is only written")

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._file.flush()

    @property
    def written(self) -> Written:
        return Written(self._size, self._checksum)

    def __enter__(self) -> ChecksummedFile:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()


def sync(path: Path) -> None:
    """Wait until a file's content, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
