"""What SIGINT, SIGTERM and SIGHUP do to a run: a checkpoint the first time, an end at once the second."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from cluster.commands import STOP_SIGNALS, _stop_on_signals


class Stopped:
    """Stands for a supervisor; remembers what it was asked."""

    def __init__(self) -> None:
        self.env_frames = 0
        self.asked: list[str] = []
        self.telemetry = SimpleNamespace(note=lambda text, frames: self.asked.append(text))

    def request_stop(self, why: str) -> None:
        self.asked.append(why)


@pytest.fixture(autouse=True)
def handlers_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("first", STOP_SIGNALS)
@pytest.mark.parametrize("second", STOP_SIGNALS)
def test_the_first_asks_and_the_second_stops(first: signal.Signals, second: signal.Signals) -> None:
    supervisor = Stopped()
    _stop_on_signals(supervisor)  # type: ignore[arg-type]
    signal.raise_signal(first)
    assert supervisor.asked[0] == first.name
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(second)


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    supervisor = Stopped()
    _stop_on_signals(supervisor)  # type: ignore[arg-type]
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGTERM)
    assert supervisor.asked[0] == "SIGTERM"
    signal.raise_signal(signal.SIGHUP)
