"""A whole run on this machine: how busy its cores are, what Ray and supervision take, how long it takes to start.

    python -m benchmarks.end_to_end [--seconds 60] [--json]

Trains Pong with preset ``laptop`` from the command line, as a user would, and reads processor time from /proc: once
learning is steady, for ``--seconds``. The limit is the sum of parts: the cores divided by what an environment step and
its share of updates cost where each is measured alone, in the same run. Then it starts preset ``smoke`` and waits
for its first learner update, against ``ray.init`` alone.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from actors.environments.contract import LaneEnvironments
from agent57.structures import SequenceSpec
from benchmarks.acting import CHUNK, TimedWorker
from benchmarks.learner import random_batch
from benchmarks.measure import Figure, against, median_seconds, report, shares
from benchmarks.process_cpu import cpu_seconds, descendants
from cluster.plan.freed_memory import keep_freed_memory
from cluster.plan.machine import usable_cores
from cluster.run.config import TrainConfig
from cluster.run.presets import LAPTOP
from cluster.telemetry.metrics import MetricSeries, read_metrics
from learner.learner import Learner

ENV = "ALE/Pong-v5"
LAUNCH = str(Path(__file__).resolve().parent.parent / "launch.py")
KINDS = {
    "ray::RolloutProcess": "acting",
    "ray::LearnerProcess": "learning",
    "ray::EvaluatorProcess": "evaluating",
    "ray::ReplayProcess": "replay",
    "ray::WeightServer": "weights",
    "launch.py": "supervisor",
}
"""Part of a command line -> what the process does; all others belong to Ray."""
WARM_UP_UPDATES = 200
FRAMES_PER_STEP = 4
START_SECONDS = 180.0


@contextmanager
def training(run_dir: Path, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """``launch.py train`` on Pong, stopped at the end."""
    command = [sys.executable, LAUNCH, "train", "--env", ENV, "--run-dir", str(run_dir), *flags]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    with run_dir.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, what: str) -> None:
    """Poll; RuntimeError with the log's end if the process ends or START_SECONDS pass."""
    deadline = time.monotonic() + START_SECONDS
    while not reached():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the run did not reach {what}:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)


def last_value(run_dir: Path, tag: str) -> float:
    """The newest value of a metric, 0 before the first."""
    try:
        return float(read_metrics(run_dir)[tag].values[-1])
    except (FileNotFoundError, KeyError):
        return 0.0


def cpu_by_kind(root: int) -> dict[str, float]:
    """Seconds of processor time that the run's processes have taken, by what they do."""
    totals: dict[str, float] = {}
    for pid, command in descendants(root).items():
        kind = next((kind for part, kind in KINDS.items() if part in command), "Ray")
        try:
            totals[kind] = totals.get(kind, 0.0) + cpu_seconds(pid)
        except ProcessLookupError:
            continue
    return totals


def cost_of_parts(config: TrainConfig, repeats: int) -> tuple[float, float]:
    """Seconds on one core of (an environment step of a worker, an update of the learner), each measured alone."""
    lanes = config.cluster.lanes_per_worker
    timed = TimedWorker(ENV, config, lanes, config.actor.torso_dtype)
    acting = median_seconds(timed.work, repeats, warm_up=6) / (CHUNK * lanes)
    spec = LaneEnvironments(ENV, 1, 0, config.environment).spec
    learner = Learner(config.agent, config.learner, spec, seed=0)
    shape = SequenceSpec.of(config.agent, spec)
    batch = random_batch(shape, config.learner.batch_size, config.family.num_policies)
    return acting, median_seconds(lambda: learner.update(batch), 5 * repeats, warm_up=5)


def steady_run(seconds: float, repeats: int) -> list[Figure]:
    """Rows of the run with preset ``laptop``."""
    acting, update = cost_of_parts(LAPTOP, repeats)
    with tempfile.TemporaryDirectory(prefix="a57-bench-") as scratch:
        run_dir = Path(scratch) / "run"
        # Evaluations come and go: they would make any short minute different from the next.
        with training(run_dir, "--evaluation.period-env-frames", "0", "--log-seconds", "1") as process:
            updates = "rate/learner_updates"
            log = run_dir.with_suffix(".log")
            wait_until(lambda: last_value(run_dir, updates) >= WARM_UP_UPDATES, process, log, "steady learning")
            before, start = cpu_by_kind(process.pid), time.monotonic()
            time.sleep(seconds)
            after, elapsed = cpu_by_kind(process.pid), time.monotonic() - start
            metrics = read_metrics(run_dir)
    taken = {kind: after[kind] - before.get(kind, 0.0) for kind in after}
    updates_per_second, steps_per_second = _rates(metrics[updates], seconds)
    cores = usable_cores()
    transitions = LAPTOP.learner.batch_size * LAPTOP.sequence.trace_length
    updates_per_step = LAPTOP.replay.replay_ratio / transitions
    # The learner of a laptop computes on one core; beyond two, more workers would use the rest.
    limit = min(cores / (acting + updates_per_step * update), 1 / (updates_per_step * update))
    busy = sum(taken.values()) / elapsed / cores
    overhead = (taken.get("Ray", 0.0) + taken.get("supervisor", 0.0)) / sum(taken.values())
    where = shares(taken, sum(taken.values())).removesuffix(", rest 0.0 %")
    return [
        Figure(f"end to end, {cores} cores busy", busy, "of the time", 1.0, busy, ">= 0.95", where),
        Figure("end to end, Ray and supervision", overhead, "of the time", 1.0, overhead, "<= 0.05"),
        against(
            "end to end, laptop preset, acting",
            steps_per_second,
            "env steps/s",
            limit,
            where=f"alone: {1e6 * acting:.0f} us per env step, {1e3 * update:.1f} ms per update",
        ),
        Figure("end to end, laptop preset, learning", updates_per_second * transitions, "trained steps/s"),
        _pulling(metrics),
        _staleness(metrics),
    ]


def _rates(updates: MetricSeries, seconds: float) -> tuple[float, float]:
    """(learner updates, environment steps) per second over the last ``seconds`` of the run."""
    inside = updates.minutes >= updates.minutes[-1] - seconds / 60
    elapsed = 60 * float(updates.minutes[inside][-1] - updates.minutes[inside][0])
    made, frames = (float(each[inside][-1] - each[inside][0]) for each in (updates.values, updates.env_frames))
    return made / elapsed, frames / FRAMES_PER_STEP / elapsed


def _pulling(metrics: dict[str, MetricSeries]) -> Figure:
    pull, acting = (statistics.fmean(metrics[f"actor/{what}_seconds"].values) for what in ("pull", "acting"))
    share = pull / (pull + acting)
    return Figure("end to end, pulling weights", share, "of a worker's time", 1.0, share, "<= 0.01")


def _staleness(metrics: dict[str, MetricSeries]) -> Figure:
    lag = statistics.fmean(metrics["actor/policy_lag_updates"].values)
    return Figure("end to end, age of a worker's weights", lag, "updates", target=f"<= {LAPTOP.actor.max_policy_lag}")


def start_up() -> list[Figure]:
    """Rows of the start: from the command to the first update with preset ``smoke``, and ``ray.init`` alone."""
    script = "import time; import ray; t = time.perf_counter(); ray.init(logging_level='ERROR', log_to_driver=False); "
    script += "print(time.perf_counter() - t); ray.shutdown()"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    ray_seconds = float(found.stdout.split()[-1])
    with tempfile.TemporaryDirectory(prefix="a57-bench-") as scratch:
        run_dir = Path(scratch) / "run"
        start = time.monotonic()
        with training(run_dir, "--preset", "smoke", "--log-seconds", "0.5") as process:
            log = run_dir.with_suffix(".log")
            wait_until(lambda: last_value(run_dir, "rate/learner_updates") >= 1, process, log, "its first update")
            seconds = time.monotonic() - start
    where = f"of which ray.init alone {ray_seconds:.1f} s"
    return [Figure("start-up, command to first learner update", seconds, "s", target="<= 20", where=where)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    report([*start_up(), *steady_run(options.seconds, options.repeats)], options.json)


if __name__ == "__main__":
    main()
