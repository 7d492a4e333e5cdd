"""A stop is bounded: a checkpoint the first time, an end at once the second, and an end in any case."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.plan.topology import plan_topology
from cluster.run.checkpoint import Checkpoints
from cluster.run.messages import Reply
from cluster.runtime.fleet import Parts
from cluster.runtime.serial_fleet import SerialFleet
from cluster.runtime.services import sequence_spec
from cluster.runtime.stopping import STOP_SIGNALS, Grace, StopSignals
from cluster.runtime.supervisor import Supervisor
from tests.cluster.tiny import tiny_config

ROOT = Path(__file__).resolve().parents[2]


class Stopped:
    """Stands for a supervisor; remembers what it was asked."""

    def __init__(self) -> None:
        self.grace = Grace(60.0)
        self.asked: list[str] = []

    def request_stop(self, why: str) -> None:
        self.asked.append(why)

    def last_words(self) -> str:
        return "The newest checkpoint is 1 min old."

    def kill(self) -> None:
        self.asked.append("kill")


@pytest.fixture
def signals() -> Iterator[StopSignals]:
    """As at the start of a program, also where the tests themselves run in the background (nohup)."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOP_SIGNALS}
    with StopSignals() as signals:
        yield signals
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("first", STOP_SIGNALS)
@pytest.mark.parametrize("second", STOP_SIGNALS)
def test_the_first_asks_and_the_second_stops(
    first: signal.Signals, second: signal.Signals, signals: StopSignals
) -> None:
    run = Stopped()
    signals.watch(run)
    signal.raise_signal(first)
    assert run.asked == [first.name]
    assert run.grace.begun
    assert run.grace.left(1000) > 50
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(second)
    assert signals.last == second
    assert run.grace.left(1000) == 0, "what still has to be done waits for nobody"


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_start_stops_at_once(number: signal.Signals, signals: StopSignals) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


def test_handlers_are_given_back_and_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = Stopped()
        terminate = signal.getsignal(signal.SIGTERM)
        with StopSignals() as signals:
            # ray.init takes it, whatever was there.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signals.watch(run)
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGHUP)
        assert run.asked == ["SIGTERM"]
        assert signal.getsignal(signal.SIGTERM) == terminate
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


STANDING = """
import ctypes, signal, sys, threading, time
from cluster.runtime import stopping
stopping.AT_ONCE_SECONDS = stopping.LATE_SECONDS = 0.5
class Run:
    grace = stopping.Grace(float(sys.argv[1]))
    request_stop = lambda self, why: None
    kill = lambda self: print("killed", flush=True)
    last_words = lambda self: "The newest checkpoint is 1 min old."
def other():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stopping.STOP_SIGNALS)
    time.sleep(0.1)
    print("ready", flush=True)
    time.sleep(60)
with stopping.StopSignals() as signals:
    signals.watch(Run())
    # A call into C that nothing interrupts, so that no handler in Python ever runs.
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping.STOP_SIGNALS)
    threading.Thread(target=other, daemon=True).start()
    ctypes.CDLL(None).sleep(30)
"""


@pytest.mark.parametrize(("grace", "signals_sent"), [(0.5, 1), (1000.0, 2)])
def test_a_main_thread_that_never_returns_ends_all_the_same(grace: float, signals_sent: int) -> None:
    """At the end of the period of grace, or after a second signal; with a sentence and an exit code that tells."""
    process = subprocess.Popen(
        [sys.executable, "-c", STANDING, str(grace)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    begun = time.monotonic()
    for _ in range(signals_sent):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    killed, said = process.communicate(timeout=20)
    assert killed == "killed\n", "what it started ends with it"
    assert process.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 5
    assert said == "error: SIGTERM: the end took too long and was cut short. The newest checkpoint is 1 min old.\n"


class Standing(SerialFleet):
    """Its learner answers no request any more once it ``stands``."""

    stands = False

    def wait(self, timeout: float) -> list[Reply]:
        replies = super().wait(timeout)
        if self.stands:
            time.sleep(0.01)
            return [reply for reply in replies if reply.process[0] != "learner"]
        return replies

    def begin_save(self, directory: Path, gently: bool) -> Parts:
        (directory / "half").write_text("of a checkpoint")
        raise RuntimeError("learner 0 did not answer in time")


def test_a_learner_that_stands_still_costs_the_period_of_grace_and_leaves_no_half_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config()
    fleet = Standing(config)
    fleet.exact_resume = False
    fleet.grace = Grace(0.5)
    supervisor = Supervisor(config, plan_topology(config, sequence_spec(config)), fleet, tmp_path, 1)
    handle = supervisor._handle

    def stand_when_learning(reply: Reply) -> None:
        handle(reply)
        if supervisor.state.learner_updates > 0 and not fleet.stands:
            fleet.stands = True
            supervisor.state.busy.add(("learner", 0))
            supervisor.grace.begin()
            supervisor.request_stop("SIGTERM")

    supervisor._handle = stand_when_learning  # type: ignore[method-assign]
    supervisor.run(None)
    assert time.monotonic() < supervisor.grace.over_at
    assert Checkpoints(tmp_path, 2).all() == []
    assert list((tmp_path / "checkpoints").iterdir()) == []
    said = capsys.readouterr().out
    assert "SIGTERM: writing a checkpoint within" in said
    assert "learner 0 did not answer in time" in said
    assert "This session has written no checkpoint" in said
    assert supervisor.schedule.failure


def test_the_grace_is_shared_and_keeps_time_for_the_end() -> None:
    grace = Grace(20.0)
    assert grace.left(600) == 600, "there is no hurry before a signal"
    grace.begin()
    assert 13 < grace.left(600) <= 14
    assert grace.left(3) == 3
    grace.end()
    assert grace.left(600) == 0
    assert grace.left(600, least=1) == 1
