"""A thread that fetches batches ahead of the learner.

The learner process (`cluster/on_ray/remotes.py`) hands it a function that samples and decompresses one batch.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Iterator over ``fetch()``, called on a thread of its own: ``depth`` results wait, one more is in its hands.

    An exception in ``fetch`` is raised by the next `__next__`; the thread then goes on with the next fetch,
    so a passing failure costs one batch. `close` ends the thread.
    """

    def __init__(self, fetch: Callable[[], T], depth: int = 2) -> None:
        self._fetch = fetch
        self._ready: queue.Queue[T | Exception] = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._closed.is_set():
            raise StopIteration
        item = self._ready.get()
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        """Stop fetching and wait for the thread; what was fetched already is dropped."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                self._thread.join(timeout=0.05)

    def _run(self) -> None:
        while not self._closed.is_set():
            item: T | Exception
            try:
                item = self._fetch()
            except Exception as error:  # noqa: BLE001
                item = error
            self._ready.put(item)
