"""The folder of a private Ray's sockets and logs: its user's own, removed at the end, or by the next start.

A lock in it lasts as long as its owner, however that ends; whoever gets the lock knows that the owner is dead. Only
folders that hold such a lock, and belong to this user, are ever removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

PREFIX, LOCK = "a57-", "owner"
_CONTENTS = "A private Ray of Agent57, process "
"""What the lock begins with: another program's file of that name says something else."""


class TemporaryFolder:
    """A new folder in ``parent``, which nobody but this user can look into; ``path`` is what Ray may use of it."""

    def __init__(self, parent: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # Not inherited: a child that outlives this process must not keep the lock.
        self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.write(self._lock, f"{_CONTENTS}{os.getpid()}\n".encode())
        # Ray opens the folder that it is given to everybody; above it, this one stays closed.
        self.path = self.folder / "r"

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


def remove_abandoned(parent: Path) -> int:
    """Remove what starts that were killed left in ``parent``; returns how many folders that were."""
    removed = 0
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            removed += _remove_if_abandoned(folder)
    return removed


def _remove_if_abandoned(folder: Path) -> bool:
    entry = folder.lstat()
    if not stat.S_ISDIR(entry.st_mode) or entry.st_uid != os.getuid() or entry.st_mode & 0o077:
        return False
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not os.pread(lock, 100, 0).startswith(_CONTENTS.encode()):
            return False
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
        return True
    finally:
        os.close(lock)
