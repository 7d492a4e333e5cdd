"""What a checkpoint of a full replay costs the run that goes on beside it.

    python -m benchmarks.checkpoints [--gb 2] [--json]

A training (Pong, preset ``laptop``, Ray) whose replay is filled up with copies of its own sequences; then checkpoints,
and for as long as each is written, how long the supervisor ever failed to hand out work, and the rates against those
before.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from actors.environments.contract import frames_per_step
from benchmarks.measure import Figure, against, report
from cluster.on_ray.fleet import RayFleet
from cluster.plan.topology import plan_topology
from cluster.run.config import CheckpointConfig
from cluster.run.presets import LAPTOP
from cluster.runtime.services import sequence_spec
from cluster.runtime.supervisor import Supervisor

ENV = "ALE/Pong-v5"
SETTLE_SECONDS = 10.0
INSERT_BYTES = 50e6
"""Of one call to the shard while the replay is filled."""


class Watched(Supervisor):
    """Notes when it handed out work, and how far the run had come by then."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.ticks: list[tuple[float, int, int]] = []

    def _dispatch(self) -> None:
        super()._dispatch()
        self.ticks.append((time.monotonic(), self.state.env_steps, self.state.learner_updates))

    @property
    def is_saving(self) -> bool:
        return self._saving is not None

    def save_now(self) -> None:
        """Begin a checkpoint as soon as no update is under way; from any thread."""
        self._save_soon = True


def rates(ticks: list[tuple[float, int, int]], begin: float, end: float) -> tuple[float, float]:
    """(environment steps, updates) per second between two times."""
    inside = [tick for tick in ticks if begin <= tick[0] <= end]
    (first, steps, updates), (last, more_steps, more_updates) = inside[0], inside[-1]
    return (more_steps - steps) / (last - first), (more_updates - updates) / (last - first)


def longest_pause(ticks: list[tuple[float, int, int]], begin: float, end: float) -> float:
    """Seconds of the longest time without a dispatch between two times."""
    times = [tick[0] for tick in ticks if begin <= tick[0] <= end]
    return float(np.max(np.diff(times)))


def fill(supervisor: Watched, num_bytes: float) -> None:
    """Insert copies of a stored sequence until the replay holds ``num_bytes``."""
    replay = supervisor.fleet.replay
    sampled = replay.sample(1, 0, 1, np.random.default_rng(0))
    blob = sampled.blob[: sampled.offsets[1]].tobytes()
    count = int(INSERT_BYTES / len(blob))
    for _ in range(int(num_bytes / (count * len(blob)))):
        replay.add([blob] * count, np.full(count, 1.0), np.ones(count, np.int64))


def measure(gigabytes: float, repeats: int) -> list[Figure]:
    """Rows of ``repeats`` checkpoints of a replay of so many GB."""
    base = dataclasses.replace(LAPTOP, env=ENV, evaluation=dataclasses.replace(LAPTOP.evaluation, period_env_frames=0))
    config = dataclasses.replace(
        base,
        replay=dataclasses.replace(base.replay, max_gb=1.2 * gigabytes, capacity_steps=10**8),
        checkpoint=CheckpointConfig(period_minutes=1e5, keep=1),
    )
    with tempfile.TemporaryDirectory(prefix="a57-bench-") as scratch:
        topology = plan_topology(config, sequence_spec(config))
        fleet = RayFleet(config, topology, None, Path(scratch))
        supervisor = Watched(config, topology, fleet, Path(scratch), frames_per_step(ENV, config.environment))
        thread = threading.Thread(target=supervisor.run, args=(None,), daemon=True)
        thread.start()
        records: list[list[float]] = [[] for _ in range(5)]
        pauses, acting, learning, seconds, quiet = records
        while supervisor.state.learner_updates < 200:
            time.sleep(0.5)
        fill(supervisor, 1e9 * gigabytes)
        for _ in range(repeats):
            time.sleep(SETTLE_SECONDS)
            begin = time.monotonic()
            supervisor.save_now()
            while not supervisor.is_saving:
                time.sleep(0.002)
            while supervisor.is_saving:
                time.sleep(0.01)
            end = time.monotonic()
            ticks = list(supervisor.ticks)
            before, during = (rates(ticks, begin - SETTLE_SECONDS, begin), rates(ticks, begin, end))
            acting.append(during[0] / before[0])
            learning.append(during[1] / before[1])
            pauses.append(longest_pause(ticks, begin, end))
            quiet.append(longest_pause(ticks, begin - SETTLE_SECONDS, begin))
            seconds.append(end - begin)
        supervisor.request_stop("measured")
        thread.join()
        fleet.close()
    size = f"checkpoint of {gigabytes:g} GB"
    return [
        Figure(f"{size}, time", statistics.median(seconds), "s"),
        Figure(
            f"{size}, longest pause of dispatch",
            max(pauses),
            "s",
            target="<= 0.5",
            where=f"{max(quiet):.2f} s in the time before",
        ),
        against(f"{size}, acting meanwhile", statistics.median(acting), "of the rate before", 1.0, ">= 0.8"),
        against(f"{size}, learning meanwhile", statistics.median(learning), "of the rate before", 1.0, ">= 0.8"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="What a checkpoint costs the run that goes on beside it.")
    parser.add_argument("--gb", type=float, default=2.0, help="size of the replay")
    parser.add_argument("--repeats", type=int, default=3, help="checkpoints")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    options = parser.parse_args()
    report(measure(options.gb, options.repeats), options.json)


if __name__ == "__main__":
    main()
