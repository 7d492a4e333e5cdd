"""Memory of a run that gets far more work than it can do: ``python -m benchmarks.overload --minutes 10``.

A real run on a gridworld with many times more workers than cores. Once its replay is full, one of its two shards and
its learner are made slow, for a quarter of the time each and then both: their processes are stopped (SIGSTOP) for
nine tenths of every second. Sequences, requests and priorities that nobody has time for must not pile up anywhere.
Writes memory over time to a file, one JSON object per second, and says how much it grew; exit code 1 if it did.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from cluster.on_ray.environment import prepare_ray_environment
from cluster.run.config import CheckpointConfig
from cluster.run.presets import SMALL

STOPPED, RUNNING = 0.9, 0.1
"""Seconds of each second that a slowed process is stopped, and runs."""
PHASES = ("too many workers", "slow shard", "slow learner", "both slow")
GROWTH_LIMIT = 0.02
"""Growth from the first to the last tenth of the phases after the first, as a share, that counts as none."""


def resident_of(pid: int) -> float:
    """MB of a process that are its own: without files and shared memory."""
    try:
        with Path(f"/proc/{pid}/statm").open() as statm:
            fields = statm.read().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Overload:
    """Slows processes down by phase and records memory, on a thread beside the run."""

    def __init__(self, fleet, supervisor, seconds: float, out: Path) -> None:  # type: ignore[no-untyped-def]
        self.fleet, self.supervisor, self.seconds, self.out = fleet, supervisor, seconds, out
        self.rows: list[dict] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        while not (self.supervisor.state.learner_updates > 0 and self._replay_full()):
            time.sleep(0.2)
        begin = time.monotonic()
        with self.out.open("w") as file:
            while (now := time.monotonic() - begin) < self.seconds:
                phase = PHASES[int(len(PHASES) * now / self.seconds)]
                self._slow_down(phase)
                self.rows.append(self._measure(now, phase))
                file.write(json.dumps(self.rows[-1]) + "\n")
                file.flush()
        self.supervisor.request_stop("the experiment is over")

    def _replay_full(self) -> bool:
        return all(stats.get("evicted", 0) > 0 for stats in self.supervisor.shards.latest)

    def _slow_down(self, phase: str) -> None:
        """A second of the phase."""
        pids = self.fleet.process_ids()
        victims = [pids.get(("replay", 1))] if phase in ("slow shard", "both slow") else []
        victims += [pids.get(("learner", 0))] if phase in ("slow learner", "both slow") else []
        victims = [pid for pid in victims if pid is not None]
        try:
            for pid in victims:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(STOPPED)
        finally:
            for pid in victims:
                os.kill(pid, signal.SIGCONT)
        time.sleep(RUNNING)

    def _measure(self, now: float, phase: str) -> dict:
        own: dict[str, float] = {}
        for (kind, _), pid in self.fleet.process_ids().items():
            own[kind] = own.get(kind, 0.0) + resident_of(pid)
        own["supervisor"] = resident_of(os.getpid())
        store = os.statvfs("/dev/shm")
        return {
            "seconds": round(now, 1),
            "phase": phase,
            "env_frames": self.supervisor.env_frames,
            "learner_updates": self.supervisor.state.learner_updates,
            "restarts": self.supervisor.state.restarts,
            "shared_memory_mb": round((store.f_blocks - store.f_bfree) * store.f_frsize / 1e6, 1),
            **{f"{kind}_mb": round(size, 1) for kind, size in sorted(own.items())},
        }


def summary(rows: list[dict]) -> tuple[str, bool]:
    """A table by phase, and whether memory stayed bounded after the first phase."""
    kinds = [key for key in rows[0] if key.endswith("_mb")]
    lines = [f"{'phase':18}{'frames/s':>10}{'updates/s':>10}" + "".join(f"{kind[:-3]:>15}" for kind in kinds)]
    for phase in PHASES:
        of_phase = [row for row in rows if row["phase"] == phase]
        if len(of_phase) < 2:
            continue
        first, last = of_phase[0], of_phase[-1]
        seconds = last["seconds"] - first["seconds"]
        rates = [(last[key] - first[key]) / seconds for key in ("env_frames", "learner_updates")]
        sizes = "".join(f"{np.median([row[kind] for row in of_phase]):15.0f}" for kind in kinds)
        lines.append(f"{phase:18}{rates[0]:10.0f}{rates[1]:10.1f}{sizes}")
    late = [row for row in rows if row["phase"] != PHASES[0]]
    totals = np.array([sum(row[kind] for kind in kinds) for row in late])
    tenth = max(1, len(totals) // 10)
    start, end = np.median(totals[:tenth]), np.median(totals[-tenth:])
    growth = end / start - 1
    lines.append(f"MB in all: {start:.0f} when the first process is slowed, {end:.0f} at the end ({growth:+.1%})")
    return "\n".join(lines), growth <= GROWTH_LIMIT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the experiment (default 10)")
    parser.add_argument("--workers", type=int, default=0, help="workers (default: ten per core but one)")
    parser.add_argument("--out", type=Path, default=Path("overload.jsonl"), help="where memory over time is written")
    options = parser.parse_args()
    workers = options.workers or 10 * max(1, len(os.sched_getaffinity(0)) - 1)
    config = dataclasses.replace(
        SMALL,
        env="Agent57/RandomCoin-v0",
        environment=dataclasses.replace(SMALL.environment, arguments=("size=9",)),
        # The ratio holds back whichever side is ahead; a small one lets the workers run as fast as they can.
        replay=dataclasses.replace(SMALL.replay, max_gb=0.01, replay_ratio=0.05, ratio_tolerance=1e6),
        evaluation=dataclasses.replace(SMALL.evaluation, period_env_frames=0),
        checkpoint=CheckpointConfig(period_minutes=1e6),
        cluster=dataclasses.replace(
            SMALL.cluster, num_workers=workers, lanes_per_worker=8, replay_shards=2, learner_threads=1
        ),
        learner=dataclasses.replace(SMALL.learner, device="cpu"),
    )
    prepare_ray_environment()
    from actors.environments.contract import frames_per_step
    from cluster.on_ray.fleet import RayFleet
    from cluster.plan.topology import plan_topology
    from cluster.runtime.services import sequence_spec
    from cluster.runtime.supervisor import Supervisor

    topology = plan_topology(config, sequence_spec(config))
    with tempfile.TemporaryDirectory(prefix="a57-overload-") as folder:
        fleet = RayFleet(config, topology)
        supervisor = Supervisor(config, topology, fleet, Path(folder), frames_per_step(config.env, config.environment))
        overload = Overload(fleet, supervisor, 60 * options.minutes, options.out)
        overload.start()
        try:
            supervisor.run(None)
        finally:
            fleet.close()
    text, bounded = summary(overload.rows)
    print(
        f"{workers} workers on {topology.num_cores} cores, {options.minutes:g} minutes; MB by kind of process\n{text}"
    )
    print(f"memory over time: {options.out}")
    return 0 if bounded else 1


if __name__ == "__main__":
    sys.exit(main())
