"""Processor time and memory of processes, as Linux counts them: robust against what else the machine does."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Processor time that the process and its threads took so far, in units of 10 ms; ProcessLookupError if gone."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS


def private_bytes(pid: int) -> int:
    """Physical memory that is the process's own: without files, and without Ray's object store, which all share."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon:")))


def children_named(parent: int, name: str) -> list[int]:
    """Direct children of ``parent`` whose program is called ``name``."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if int(_stat(int(folder.name))[1]) == parent and (folder / "comm").read_text().strip() == name:
                    found.append(int(folder.name))
            except (ProcessLookupError, FileNotFoundError):
                continue
    return found


def descendants(root: int) -> dict[int, str]:
    """Command lines of the process ``root`` and of everything that it started, directly or not."""
    parents, commands = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int(_stat(int(folder.name))[1])
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (ProcessLookupError, FileNotFoundError):
                continue
            commands[int(folder.name)] = command
    family, found = {root}, {root}
    while found:
        found = {pid for pid, parent in parents.items() if parent in found} - family
        family |= found
    return {pid: commands[pid] for pid in family if pid in commands}


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on: the second, the name, may hold spaces and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        raise ProcessLookupError(f"no process {pid}") from None
