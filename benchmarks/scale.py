"""How many lanes supervisor, replay, weight server and meta-controller carry, without the machines to run them.

    python -m benchmarks.scale [--lanes 256 512 1024] [--lanes-per-worker 16 2] [--seconds 20] [--shards 1] [--json]

Each stage runs the real supervisor and its processes against simulated workers and a simulated learner
(`benchmarks.simulated_fleet` says what is real) for some seconds: every lane acts at 2 000 steps/s / 16, what 16
lanes of a core make of the speed that the extrapolation asks for, and the learner keeps up. It reports what was
carried, processor time (of each process, so that other load on the machine does not count), delays and queues. Then
it extrapolates to 512 lanes, 16 per core, with one GPU learner, and names what fills up first: each process's
processor time per lane, as measured, against one core; the weights on the network and the learner against the
capacities that the options name, because neither a network nor a GPU is part of this benchmark.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.measure import Figure, report
from benchmarks.process_cpu import children_named, cpu_seconds, private_bytes
from benchmarks.recorded_traffic import RecordedTraffic, record_traffic
from cluster.on_ray.environment import prepare_ray_environment
from cluster.run.config import TrainConfig
from cluster.run.presets import PAPER
from cluster.runtime.supervisor import Supervisor

if TYPE_CHECKING:
    from benchmarks.simulated_fleet import SimulatedFleet

TARGET_LANES, CORE_STEPS_PER_SECOND, LANES_PER_CORE = 512, 2_000, 16
LANE_STEPS_PER_SECOND = CORE_STEPS_PER_SECOND / LANES_PER_CORE
CORES_PER_NODE = 16
"""Of a worker node, for the extrapolation of network traffic."""
LEARNER_LEAD = 1.5
"""How much faster than needed the simulated learner is, so that it never holds the workers back."""
CARRIED = 0.9
"""Share of the wanted steps below which a stage counts as saturated."""
START_SECONDS = 240.0


@dataclass(frozen=True)
class Stage:
    """What one stage measured over ``seconds``; processor time in cores, ``timings`` by kind as (ends, seconds)."""

    lanes: int
    lanes_per_worker: int
    seconds: float
    env_steps: int
    requests: int
    publishes: int
    sequences: int
    updates: int
    cores: dict[str, float]
    grown_bytes: dict[str, int]
    timings: dict[str, tuple[np.ndarray, np.ndarray]]
    replies_at_once: np.ndarray
    lags: np.ndarray
    """Updates made since the weights that each request was served with, at its end."""

    @property
    def workers(self) -> int:
        return self.lanes // self.lanes_per_worker

    @property
    def carried(self) -> float:
        """Steps taken as a share of the steps that the lanes would have taken without waiting."""
        return self.env_steps / self.seconds / (self.lanes * LANE_STEPS_PER_SECOND)


def stage_config(lanes: int, lanes_per_worker: int, shards: int) -> TrainConfig:
    """The ``paper`` preset with a replay so small that it is full, and evicts as it does in steady work, at once."""
    cluster = dataclasses.replace(
        PAPER.cluster,
        num_workers=lanes // lanes_per_worker,
        lanes_per_worker=lanes_per_worker,
        replay_shards=shards,
        object_store_gb=1.0,
    )
    return dataclasses.replace(
        PAPER,
        cluster=cluster,
        replay=dataclasses.replace(PAPER.replay, max_gb=0.05, min_sequences=500),
        evaluation=dataclasses.replace(PAPER.evaluation, period_env_frames=0),
        checkpoint=dataclasses.replace(PAPER.checkpoint, period_minutes=1e6),
    )


def run_stage(config: TrainConfig, traffic: RecordedTraffic, seconds: float, hosts: int) -> Stage:
    """Run the supervisor until it learns and the replay is full, measure for ``seconds``, stop."""
    from benchmarks.simulated_fleet import SimulatedFleet, simulated_topology

    cluster = config.cluster
    lanes = cluster.num_workers * cluster.lanes_per_worker
    transitions = config.learner.batch_size * config.sequence.trace_length
    wanted_updates = lanes * LANE_STEPS_PER_SECOND * config.replay.replay_ratio / transitions
    topology = simulated_topology(config, os.cpu_count() or 1)
    pace = 1 / (LEARNER_LEAD * wanted_updates)
    fleet = SimulatedFleet(config, topology, traffic, LANE_STEPS_PER_SECOND, pace, hosts)
    found: list[Stage | Exception] = []
    try:
        with tempfile.TemporaryDirectory(prefix="a57-scale-") as folder:
            supervisor = Supervisor(config, topology, fleet, Path(folder) / "run", frames_per_step=4)
            arguments = (supervisor, fleet, seconds, found)
            threading.Thread(target=_measure, args=arguments, daemon=True).start()
            supervisor.run(None)
    finally:
        fleet.close()
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def _measure(supervisor: Supervisor, fleet: SimulatedFleet, seconds: float, found: list[Stage | Exception]) -> None:
    """On a thread beside the supervisor's: wait for steady work, take stock, sleep, take stock again."""
    try:
        found.append(_stage(supervisor, fleet, seconds))
    except Exception as error:  # noqa: BLE001
        found.append(error)
    supervisor.request_stop("measured")


def _stage(supervisor: Supervisor, fleet: SimulatedFleet, seconds: float) -> Stage:
    deadline = time.monotonic() + START_SECONDS
    while not supervisor.state.learner_updates or not fleet.evicted_sequences():
        if time.monotonic() > deadline:
            raise TimeoutError(f"learning did not begin, or the replay was not full, within {START_SECONDS:.0f} s")
        time.sleep(0.5)
    pids = {f"{kind} {number}": pid for (kind, number), pid in fleet.process_ids().items()}
    pids["supervisor"] = os.getpid()
    pids |= {name: children_named(os.getpid(), name)[0] for name in ("raylet", "gcs_server")}
    fleet.timings()
    lags = _noted_lags(supervisor)
    counts = _counts(supervisor, fleet, pids)
    begin = time.monotonic()
    time.sleep(seconds)
    later = _counts(supervisor, fleet, pids)
    elapsed = time.monotonic() - begin
    grown = {name: later[name] - counts[name] for name in counts}
    timings = fleet.timings()
    cluster = supervisor.config.cluster
    return Stage(
        lanes=cluster.num_workers * cluster.lanes_per_worker,
        lanes_per_worker=cluster.lanes_per_worker,
        seconds=elapsed,
        env_steps=int(grown["env_steps"]),
        requests=int(grown["requests"]),
        publishes=int(grown["publishes"]),
        sequences=int(grown["sequences"]),
        updates=int(grown["updates"]),
        cores={name: grown[f"cpu {name}"] / elapsed for name in pids},
        grown_bytes={name: int(grown[f"memory {name}"]) for name in pids},
        timings={
            kind: (
                np.array([end for name, end, _ in timings if name == kind]),
                np.array([took for name, _, took in timings if name == kind]),
            )
            for kind in ("idle", "insert", "sample", "pull")
        },
        replies_at_once=np.array(fleet.replies_at_once[int(counts["waits"]) : int(later["waits"])]),
        lags=np.array(lags),
    )


def _noted_lags(supervisor: Supervisor) -> list[int]:
    """A list that gets the lag of every request to a worker from now on."""
    lags: list[int] = []
    lagged = supervisor.telemetry.lagged

    def noted(updates: int, env_steps: int) -> None:
        lags.append(updates)
        lagged(updates, env_steps)

    supervisor.telemetry.lagged = noted  # type: ignore[method-assign]
    return lags


def _counts(supervisor: Supervisor, fleet: SimulatedFleet, pids: dict[str, int]) -> dict[str, float]:
    """Everything that is counted from the start, at this moment."""
    return {
        "env_steps": supervisor.state.env_steps,
        "updates": supervisor.state.learner_updates,
        "requests": fleet.replies["worker"],
        "publishes": fleet.replies["learner"],
        "waits": len(fleet.replies_at_once),
        "sequences": fleet.inserted_sequences(),
        **{f"cpu {name}": cpu_seconds(pid) for name, pid in pids.items()},
        **{f"memory {name}": private_bytes(pid) for name, pid in pids.items()},
    }


def stage_figures(stage: Stage, traffic: RecordedTraffic, config: TrainConfig) -> list[Figure]:
    """The rows of one stage, each name behind "LANES lanes / WORKERS"."""
    seconds = stage.seconds
    wanted = stage.lanes * LANE_STEPS_PER_SECOND
    request_ms = 1e3 * config.actor.steps_per_request / LANE_STEPS_PER_SECOND
    weights_mb = 4 * traffic.weight_count / 1e6
    supervisor, depth = stage.cores["supervisor"], stage.replies_at_once
    idle_ends, idle = stage.timings["idle"]
    first, last = (np.array_split(idle[np.argsort(idle_ends)], 3)[part] for part in (0, 2))
    growth = float(np.median(last) / np.median(first))
    waiting = float(np.percentile(depth, 99))
    period = stage.updates / max(stage.publishes, 1)
    age = float(stage.lags.mean() / period) if len(stage.lags) and period else 0.0
    figures = [
        Figure("acting", stage.env_steps / seconds, "env steps/s", wanted, stage.carried, f">= {CARRIED}"),
        Figure("supervisor's processor time", supervisor, "cores", 0.5, supervisor / 0.5, "<= 1"),
        Figure("supervisor per request", 1e3 * supervisor * seconds / stage.requests, "ms"),
        Figure("requests to workers", stage.requests / seconds, "1/s"),
        Figure("replies waiting together, 99 %", waiting, "replies", stage.workers, waiting / stage.workers, "< 1"),
        *_delays("worker idle between requests", idle, request_ms),
        Figure("that idle time, last third against first", growth, "", 1.0, growth, "< 2"),
        Figure("sequences inserted", stage.sequences / seconds, "1/s"),
        Figure("sequences inserted", stage.sequences * traffic.blob_bytes / seconds / 1e6, "MB/s"),
        *_delays("insert", stage.timings["insert"][1]),
        Figure(f"batches of {config.learner.batch_size} sampled", len(stage.timings["sample"][1]) / seconds, "1/s"),
        *_delays("sample", stage.timings["sample"][1]),
        Figure("age of workers' weights", age, "publish periods", target="<= 2"),
        Figure("weights published", stage.publishes / seconds, "1/s"),
        Figure("weights published", stage.publishes * weights_mb / seconds, "MB/s"),
        Figure("weights pulled by workers", len(stage.timings["pull"][1]) / seconds, "1/s"),
        *_delays("pull", stage.timings["pull"][1]),
    ]
    for process, cores in sorted(stage.cores.items()):
        if process != "supervisor":
            figures.append(Figure(f"{process}, processor time", cores, "cores"))
    grown = sum(size for process, size in stage.grown_bytes.items() if not process.startswith("host")) / 1e6
    figures.append(Figure("memory grown, all but simulated workers", grown, "MB"))
    label = f"{stage.lanes} lanes / {stage.workers}"
    return [dataclasses.replace(figure, name=f"{label}: {figure.name}") for figure in figures]


def _delays(what: str, seconds: np.ndarray, limit_ms: float | None = None) -> list[Figure]:
    if not len(seconds):
        return []
    rows = []
    for percentile in (50, 99):
        value = 1e3 * float(np.percentile(seconds, percentile))
        ratio = None if limit_ms is None else value / limit_ms
        rows.append(Figure(f"{what}, {percentile} %", value, "ms", limit_ms, ratio))
    return rows


def extrapolate(
    stage: Stage, traffic: RecordedTraffic, config: TrainConfig, gpu_updates_per_second: float, network_mb: float
) -> list[Figure]:
    """Lanes at which each part would be full, from what ``stage`` measured; the smallest is the bottleneck.

    Everything is taken to grow in proportion to the lanes. A process is full at one core (its Python runs on one at
    a time); the node of weight server and shards when weights to every worker node and sequences from them
    fill ``network_mb`` MB/s; the learner at ``gpu_updates_per_second``.
    """
    full: dict[str, float] = {}
    for process, cores in stage.cores.items():
        if not process.startswith("host"):
            what = "learner's sampling and decompression" if process.startswith("learner") else process
            full[f"{what}: one core"] = stage.lanes / max(cores, 1e-9)
    lane_updates = LANE_STEPS_PER_SECOND * config.replay.replay_ratio
    lane_updates /= config.learner.batch_size * config.sequence.trace_length
    full[f"GPU learner: {gpu_updates_per_second:g} updates/s"] = gpu_updates_per_second / lane_updates
    nodes = TARGET_LANES / LANES_PER_CORE / CORES_PER_NODE
    publishes = stage.publishes / stage.seconds * TARGET_LANES / stage.lanes
    traffic_mb = publishes * nodes * 4 * traffic.weight_count / 1e6
    traffic_mb += TARGET_LANES * LANE_STEPS_PER_SECOND / config.sequence.replay_period * traffic.blob_bytes / 1e6
    # Publishes and nodes both grow with the lanes.
    full[f"network of the weight server's node: {network_mb:g} MB/s"] = TARGET_LANES * (network_mb / traffic_mb) ** 0.5
    rows = [
        Figure(f"full at, {what}", lanes, "lanes", TARGET_LANES, lanes / TARGET_LANES, ">= 1")
        for what, lanes in sorted(full.items(), key=lambda entry: entry[1])
    ]
    return [dataclasses.replace(rows[0], name=rows[0].name.replace("full at", "first bottleneck")), *rows[1:]]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lanes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--lanes-per-worker", type=int, nargs="+", default=[LANES_PER_CORE, 2])
    parser.add_argument("--seconds", type=float, default=20.0, help="measured per stage")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--hosts", type=int, default=2, help="processes that play the workers")
    parser.add_argument("--gpu-updates-per-second", type=float, default=5.0, help="assumed; the paper's learner: 5")
    parser.add_argument("--network-mb-per-second", type=float, default=1250.0, help="assumed; 10 Gbit/s: 1250")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    shapes = [(lanes, each) for each in options.lanes_per_worker for lanes in options.lanes]
    for lanes, each in shapes:
        if each < 1 or lanes < each or lanes % each:
            parser.error(f"{lanes} lanes do not make whole workers of {each}")
    prepare_ray_environment()
    configs = [stage_config(lanes, each, options.shards) for lanes, each in shapes]
    figures: list[Figure] = []
    stages: list[Stage] = []
    # Standard output is the report's alone; status lines, and each stage as it ends, go beside it.
    with contextlib.redirect_stdout(sys.stderr):
        print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        traffic = record_traffic(configs[0])
        for config in configs:
            stages.append(run_stage(config, traffic, options.seconds, options.hosts))
            rows = stage_figures(stages[-1], traffic, config)
            report(rows, as_json=False)
            figures += rows
    figures += [
        Figure("one encoded sequence", traffic.blob_bytes / 1e3, "KB"),
        Figure("one weight vector", 4 * traffic.weight_count / 1e6, "MB"),
        Figure("encoding, one core", 1 / traffic.encode_seconds, "sequences/s"),
    ]
    for each in options.lanes_per_worker:
        figures += saturation([stage for stage in stages if stage.lanes_per_worker == each])
    best = max(stages, key=lambda stage: (stage.carried >= CARRIED, stage.lanes_per_worker, stage.lanes))
    figures += extrapolate(best, traffic, configs[0], options.gpu_updates_per_second, options.network_mb_per_second)
    report(figures, options.json)


def saturation(stages: list[Stage]) -> list[Figure]:
    """The most lanes of one shape that this machine carried, simulated workers included."""
    carried = [stage for stage in stages if stage.carried >= CARRIED]
    lanes = max((stage.lanes for stage in carried), default=0)
    tried = max(stage.lanes for stage in stages)
    name = f"most lanes carried on this machine, {stages[0].lanes_per_worker} per worker"
    return [Figure(name, lanes, "lanes", tried, lanes / tried)]


if __name__ == "__main__":
    main()
