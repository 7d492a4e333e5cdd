"""The operating system's side of a private Ray: whether its own two processes live, and an end that leaves nothing.

Ray itself takes a minute to find that one of the two is gone, or aborts this process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import ray

WATCH_SECONDS = 1.0
"""Between two looks."""
_ESSENTIAL = {"raylet": "raylet", "gcs_server": "control store"}
"""Ray's name of the process, and what it is called here."""


class RayProcesses:
    """Everything below this process that Ray has started or will start; to be made right after ``ray.init``."""

    def __init__(self) -> None:
        node: Any = ray._private.worker._global_node
        started = node.all_processes
        self._essential: dict[str, Any] = {
            called: started[name][0].process for name, called in _ESSENTIAL.items() if name in started
        }
        self._roots = [info.process.pid for infos in started.values() for info in infos]
        self._known: dict[int, int] = {}
        self._looked = 0.0
        self._lost: tuple[str, str] | None = None
        self.note()

    def lost(self) -> tuple[str, str] | None:
        """What of Ray's own is gone, and how; asked often, it looks once in a while."""
        if self._lost is not None or time.monotonic() < self._looked + WATCH_SECONDS:
            return self._lost
        self._looked = time.monotonic()
        self.note()
        for called, process in self._essential.items():
            if (code := process.poll()) is not None:
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                self._lost = called, how
        return self._lost

    def note(self) -> None:
        """Remember what runs now: children of a process that is gone cannot be found any more."""
        for pid in [*self._roots, *descendants(self._roots)]:
            if (begun := begun_at(pid)) is not None:
                self._known[pid] = begun

    def kill(self) -> None:
        """End what is still there of all that was ever noted."""
        for pid, begun in self._known.items():
            # The start time tells it from another process that has got its number since.
            if begun_at(pid) == begun:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)


def begun_at(pid: int) -> int | None:
    """When the process began, in ticks since the machine did; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def descendants(pids: list[int]) -> set[int]:
    """All processes below ``pids`` now."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = grown = set(pids)
    while grown:
        grown = {child for child, parent in parents.items() if parent in found} - found
        found = found | grown
    return found - set(pids)
