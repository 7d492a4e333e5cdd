"""What a process of a run prints, kept in ``logs/KIND-INDEX.txt`` of the run's folder, of which the middle may go.

The process itself, its libraries in C and its children write straight into the file, so that the last words before a
crash are there too; a thread sees to it that the file stays small.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path

from cluster.run.messages import ProcessId
from cluster.telemetry.lasting_output import LastingStream

FIRST_BYTES, LAST_BYTES = 1_000_000, 1_000_000
"""Kept of what all lives of a process have printed."""
LOOK_SECONDS = 0.5
"""Between two looks at the size."""


def log_of(run_dir: str, process: ProcessId) -> str:
    """The file of ``process``."""
    return str(Path(run_dir) / "logs" / f"{process[0]}-{process[1]}.txt")


def keep_output(path: Path) -> None:
    """Let stdout and stderr of this process go to the end of ``path``, from now on; to be called once.

    Where that is impossible (a full disk, a folder that this node does not see) they stay as they are.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        # Everybody who has it open writes at its end, wherever that is after a trim.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError:
        return
    with contextlib.suppress(OSError):
        os.write(descriptor, f"--- process {os.getpid()}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    # A print on a full disk must not look like a failure of whoever prints.
    sys.stdout, sys.stderr = (
        LastingStream(open(number, "w", buffering=1, errors="backslashreplace", closefd=False))  # noqa: SIM115
        for number in (1, 2)
    )
    threading.Thread(target=_keep_small, args=(descriptor,), name="output", daemon=True).start()


def _keep_small(descriptor: int) -> None:
    left_out = 0
    while True:
        with contextlib.suppress(OSError):
            left_out += trim(descriptor, left_out, FIRST_BYTES, LAST_BYTES)
        time.sleep(LOOK_SECONDS)


def trim(descriptor: int, left_out: int, first: int, last: int) -> int:
    """Take the middle out of a file that is twice as long as ``first`` and ``last``; returns the bytes that went.

    What is printed in that moment may go too. ``left_out`` went before.
    """
    size = os.fstat(descriptor).st_size
    if size <= 2 * (first + last):
        return 0
    went = size - first - last
    tail = os.pread(descriptor, last, size - last)
    os.ftruncate(descriptor, first)
    note = f"\n--- {left_out + went:,} bytes are left out here\n".encode()
    os.write(descriptor, note + tail)
    return went
