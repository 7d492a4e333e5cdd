"""Makes many runs, several at a time: each a process of its own whose output goes to ``<run folder>.log``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from cluster.runtime.stopping import STOP_SIGNALS

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.5


class HasFolder(Protocol):
    @property
    def folder(self) -> Path: ...


One = TypeVar("One", bound=HasFolder)


@dataclass(frozen=True)
class Ended:
    """How a run's process ended; ``stopped`` says that it may have been by a signal passed on to it."""

    exit_code: int
    minutes: float
    core_minutes: float
    """Of processor time, however long the process and its children had to wait for it."""
    stopped: bool


def make_runs(
    runs: Sequence[One],
    parallel: int,
    begin: Callable[[One], Sequence[str]],
    ended: Callable[[One, Ended], None],
    cwd: Path | None = None,
    **environment: str,
) -> int:
    """Make every run, ``parallel`` at a time, whatever becomes of the others.

    ``begin`` prepares a run and returns its command: a script of this repository and its arguments. Ctrl-C, SIGTERM or
    SIGHUP are passed on to the processes, which write their checkpoints, and nothing new starts: then the signal's
    number is returned, else 0. One that is ignored (nohup) stays so.
    """
    waiting, playing, stops, passed_on = list(runs), dict[subprocess.Popen, tuple[One, float]](), list[int](), 0
    numbers = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: stops.append(number)) for number in numbers}
    try:
        while (waiting and not stops) or playing:
            while waiting and not stops and len(playing) < parallel:
                one = waiting.pop(0)
                playing[_start(begin(one), log_of(one.folder), cwd, environment)] = (one, time.monotonic())
            for number in stops[passed_on:]:
                passed_on += 1
                for process in playing:
                    os.kill(process.pid, signal.SIGTERM if number == signal.SIGHUP else number)
            time.sleep(POLL_SECONDS)
            for process in list(playing):
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    one, began = playing.pop(process)
                    core_minutes = (usage.ru_utime + usage.ru_stime) / 60
                    minutes = (time.monotonic() - began) / 60
                    ended(one, Ended(process.returncode, minutes, core_minutes, bool(stops)))
    finally:
        # Left only by an exception: nobody would hear of them.
        for process in playing:
            process.terminate()
        for number, handler in before.items():
            signal.signal(number, handler)
    return stops[0] if stops else 0


def log_of(folder: Path) -> Path:
    return folder.with_name(folder.name + ".log")


def _start(command: Sequence[str], log: Path, cwd: Path | None, environment: dict[str, str]) -> subprocess.Popen:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        return subprocess.Popen(
            [sys.executable, str(ROOT / command[0]), *command[1:]],
            cwd=cwd,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            # Signals of the terminal reach the processes through `make_runs`, once.
            start_new_session=True,
        )
