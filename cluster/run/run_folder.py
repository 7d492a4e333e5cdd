"""The folder of a run: one process at a time writes into it, and none takes over what another program left there.

Readers (eval, report, export, TensorBoard) ask nobody.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.run.checkpoint import Checkpoints
from cluster.run.config import load_config
from cluster.run.errors import UserError

CONFIG_FILE, VERSIONS_FILE, LOCK_FILE, METRICS_FILE = "config.json", "versions.json", "lock", "metrics.jsonl"
ENVIRONMENT_FILE = "environment.json"
"""What the run's environment looks like: its spec and its first action, so that nobody need make one to know."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What filesystems without locks answer."""


def new_folder(path: Path) -> Path:
    """``path``, or the first of ``path-2``, ``path-3`` ... that nobody has: just made, and empty."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = path if number == 1 else path.with_name(f"{path.name}-{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise UserError(f"{path} cannot be made ({error.strerror}): name another folder.") from None
    raise AssertionError("there are always more numbers")


@contextmanager
def owning(folder: Path, tell: Callable[[str], None], made: bool = False) -> Iterator[None]:
    """Hold the lock of ``folder``, which is made if need be; UserError if another process holds it.

    The kernel releases the lock with the process, however that ends, and over NFS the other machines know of it too;
    ``tell`` hears of a filesystem that has no locks. A folder ``made`` for this, or here, in which nothing was written
    is not left behind.
    """
    made = made or not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(folder, tell)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): name another folder.") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # of a disk that is full or gone
            os.ftruncate(descriptor, 0)
            if made and [path.name for path in folder.iterdir()] == [LOCK_FILE]:
                (folder / LOCK_FILE).unlink()
                folder.rmdir()
        os.close(descriptor)


def _lock(folder: Path, tell: Callable[[str], None]) -> int:
    """The open and locked lock file. The file itself stays: who unlinks one that another waits for, makes two."""
    # flock rather than lockf: it also tells two runs of one process apart, and no other close releases it. Linux
    # carries it over NFS, for which the file must be open for writing.
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            who = holder if holder.isprintable() and holder else "another process"
            raise UserError(f"{folder} is being written by {who}: wait for its end, or stop it.") from None
        tell(f"{folder} is on a filesystem without locks ({error.strerror}): let no second process write into it.")
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        text = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
        os.pwrite(descriptor, text.encode(), 0)
    return descriptor


def refuse_used(run_dir: Path, checkpoints: Checkpoints, tell: Callable[[str], None]) -> None:
    """UserError if a new run in ``run_dir`` would take over, or get mixed up with, what is there already.

    A start that ended before its first checkpoint is begun anew; what no run would write is left alone.
    """
    if run_dir.is_dir() and not os.access(run_dir, os.W_OK | os.X_OK):
        raise UserError(f"{run_dir} cannot be written (Permission denied): name another folder.")
    config, other = run_dir / CONFIG_FILE, "name another --run-dir"
    if checkpoints.all():
        go_on = f"go on with --resume {run_dir}, or " if config.exists() else ""
        raise UserError(f"{run_dir} already holds a run: {go_on}{other}.")
    for path in checkpoints.in_the_way():
        raise UserError(f"{path} is there already, but is no checkpoint of a run: {other}.")
    if config.exists():
        try:
            load_config(config)
        except UserError:
            raise UserError(f"{config} is there already, but is no config of a run: {other}.") from None
        tell(f"{run_dir} holds a start that ended before its first checkpoint: it is begun anew.")
        return
    for path in (run_dir / VERSIONS_FILE, run_dir / METRICS_FILE):
        if path.exists():
            raise UserError(f"{path} is there already, but no run that wrote it: {other}.")
