"""The prefetch thread: order, bound, errors, and that it always ends."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import pytest

from learner.prefetch import Prefetcher

PATIENCE_SECONDS = 5.0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


class Source:
    """Counts up from 0; remembers its thread; fails on the numbers in ``failing``."""

    def __init__(self, failing: tuple[int, ...] = ()) -> None:
        self.failing = failing
        self.calls = 0
        self.thread: threading.Thread | None = None

    def __call__(self) -> int:
        self.thread = threading.current_thread()
        number, self.calls = self.calls, self.calls + 1
        if number in self.failing:
            raise ValueError(f"number {number}")
        return number

    def assert_ended(self) -> None:
        assert self.thread is not None
        assert self.thread is not threading.current_thread()
        assert not self.thread.is_alive()


@pytest.mark.parametrize("depth", [1, 3])
def test_results_come_in_order_and_none_is_lost(depth: int) -> None:
    source = Source()
    batches = Prefetcher(source, depth)
    assert list(itertools.islice(batches, 50)) == list(range(50))
    batches.close()
    source.assert_ended()


@pytest.mark.parametrize("depth", [1, 3])
def test_fetches_ahead_but_not_without_bound(depth: int) -> None:
    """``depth`` results wait in the queue, and one more in the thread's hands."""
    source = Source()
    batches = Prefetcher(source, depth)
    try:
        wait_until(lambda: source.calls >= depth)
        time.sleep(0.1)
        assert source.calls <= depth + 1
        assert next(batches) == 0
        wait_until(lambda: source.calls >= depth + 1)
        time.sleep(0.1)
        assert source.calls <= depth + 2
    finally:
        batches.close()


def test_an_error_surfaces_once_in_its_turn_and_fetching_goes_on() -> None:
    source = Source(failing=(2, 3))
    batches = Prefetcher(source, depth=2)
    try:
        assert [next(batches), next(batches)] == [0, 1]
        with pytest.raises(ValueError, match="number 2"):
            next(batches)
        with pytest.raises(ValueError, match="number 3"):
            next(batches)
        assert [next(batches), next(batches)] == [4, 5]
    finally:
        batches.close()


def test_close_ends_a_thread_that_waits_for_room() -> None:
    source = Source()
    batches = Prefetcher(source, depth=1)
    wait_until(lambda: source.calls == 2)
    time.sleep(0.02)
    start = time.monotonic()
    batches.close()
    assert time.monotonic() - start < 1.0
    source.assert_ended()
    calls = source.calls
    time.sleep(0.05)
    assert source.calls == calls


def test_close_ends_a_thread_that_waits_for_room_with_an_error() -> None:
    source = Source(failing=tuple(range(10_000)))
    batches = Prefetcher(source, depth=1)
    wait_until(lambda: source.calls >= 2)
    batches.close()
    source.assert_ended()


def test_close_waits_for_a_fetch_under_way() -> None:
    begun, finished = threading.Event(), threading.Event()

    def slow() -> int:
        begun.set()
        time.sleep(0.2)
        finished.set()
        return 0

    batches = Prefetcher(slow)
    assert begun.wait(PATIENCE_SECONDS)
    batches.close()
    assert finished.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_nothing_comes_after_close_and_closing_twice_is_harmless() -> None:
    batches = Prefetcher(Source())
    assert next(batches) == 0
    batches.close()
    batches.close()
    assert list(batches) == []


def test_fetching_happens_off_the_callers_thread() -> None:
    source = Source()
    batches = Prefetcher(source)
    next(batches)
    batches.close()
    assert source.thread is not None
    assert source.thread.daemon, "a thread that blocks in fetch would keep the process alive"
