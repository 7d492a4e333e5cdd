"""How a run is stopped: a first signal asks for a checkpoint within a period of grace, a second one ends it at once.

Python runs the handlers of signals on the main thread, which may stand in a call that never returns. So a thread of
`StopSignals` reads the same signals from a pipe, and ends the process when the main thread has not done so in time.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import threading
import time
from typing import Any, Protocol

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CLOSING_SECONDS = 6.0
"""Of the period of grace, kept for the end of all processes; of a short one, a third."""
LATE_SECONDS = 2.0
"""After the period of grace, until the process ends as it is."""
AT_ONCE_SECONDS = 5.0
"""What an end without a checkpoint may take: files are closed and processes ended."""
LAST_ANSWER_SECONDS = 1.0
"""However late it is, a process that is well gets so long to answer: the one that does not is then known."""


class Grace:
    """The seconds that are left for a stop, which all its waits share; without end until `begin`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._ends = math.inf

    def begin(self) -> None:
        if not self.begun:
            self._ends = time.monotonic() + self.seconds

    @property
    def begun(self) -> bool:
        return self._ends < math.inf

    def end(self) -> None:
        """There is no time left, but for the end itself."""
        self._ends = time.monotonic()

    def left(self, at_most: float, least: float = 0.0) -> float:
        """Seconds that something may take which is given ``at_most`` while there is no hurry, before the closing."""
        closing = min(CLOSING_SECONDS, self.seconds / 3)
        return max(least, min(at_most, self._ends - closing - time.monotonic()))

    @property
    def over_at(self) -> float:
        """The time (``time.monotonic``) at which the process must have ended."""
        return self._ends + LATE_SECONDS


class Stoppable(Protocol):
    """What a signal stops: the supervisor."""

    @property
    def grace(self) -> Grace: ...
    def request_stop(self, why: str) -> None: ...
    def last_words(self) -> str: ...
    def kill(self) -> None: ...


class StopSignals:
    """Owner of SIGINT, SIGTERM and SIGHUP while a run starts, trains and ends; a context manager.

    Until there is a run (`watch`) any of them ends the start at once, as the second does later, by KeyboardInterrupt.
    A SIGHUP that is ignored (nohup) stays so.
    """

    def __init__(self) -> None:
        self._run: Stoppable | None = None
        self._numbers = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._seen = 0
        self.last = signal.SIGTERM
        """The newest of the signals that came."""
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._thread = threading.Thread(target=self._watch_time, name="stop-signals", daemon=True)

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.getsignal(number) for number in self._numbers}
        self._pipe_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._install()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._pipe_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        # Ends the thread.
        os.close(self._write)
        self._thread.join()
        os.close(self._read)

    def _install(self) -> None:
        for number in self._numbers:
            signal.signal(number, self._handle)

    def watch(self, run: Stoppable) -> None:
        """From now on the first signal is a request to ``run``; after ``ray.init``, which takes SIGTERM for itself."""
        self._run = run
        self._install()

    def _handle(self, number: int, frame: Any) -> None:
        """On the main thread, as soon as it is free."""
        self._seen += 1
        self.last = signal.Signals(number)
        if self._run is None or self._seen > 1:
            if self._run is not None:
                self._run.grace.end()
            raise KeyboardInterrupt
        self._run.grace.begin()
        self._run.request_stop(self.last.name)

    def _watch_time(self) -> None:
        """End the process at the end of the period of grace, or soon after a second signal."""
        seen, number, deadline = 0, 0, math.inf
        while True:
            wait = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
            if not select.select([self._read], [], [], wait)[0]:
                self._end(number)
            if not (read := os.read(self._read, 64)):
                return
            for number in read:
                seen += number in self._numbers
            if seen and (run := self._run) is not None and seen == 1:
                run.grace.begin()
                deadline = run.grace.over_at
            elif seen:
                deadline = min(deadline, time.monotonic() + AT_ONCE_SECONDS)

    def _end(self, number: int) -> None:
        """End this process although its main thread does not, and all that it has started."""
        name = signal.Signals(number).name
        words = self._run.last_words() if self._run is not None else ""
        with contextlib.suppress(OSError):
            os.write(2, f"error: {name}: the end took too long and was cut short. {words}\n".encode())
        if self._run is not None:
            self._run.kill()
        os._exit(128 + number)
