"""Faults injected into running training: each is survived, and costs no more than docs/architecture.md says.

The first test is part of every run; ``pytest -m faults`` runs the others too.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from actors.environments.contract import EnvironmentConfig
from cluster.run.checkpoint import Checkpoints, load_tree
from cluster.run.config import CheckpointConfig, ClusterConfig, TrainConfig
from cluster.run.errors import TrainingStopped, UserError
from cluster.telemetry.metrics import read_metrics
from replay.redistribution import saved_shards
from tests.cluster.running import Run
from tests.cluster.test_hostile_runs import HOSTILE, assert_finite
from tests.cluster.tiny import tiny_config

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]  # seconds on a quiet machine, many times that on a busy one
ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ClusterConfig(
    num_workers=2,
    lanes_per_worker=4,
    num_learners=2,
    learner_threads=1,
    replay_shards=2,
    object_store_gb=0.1,
    updates_per_request=5,
)


def config_of(**changes: object) -> TrainConfig:
    """Two workers, two shards and two learners; a checkpoint every few seconds, no evaluation."""
    base = tiny_config(serial=False, cluster=CLUSTER, checkpoint=CheckpointConfig(period_minutes=0.05, keep=2))
    evaluation = dataclasses.replace(base.evaluation, period_env_frames=0)
    learner = dataclasses.replace(base.learner, device="cpu")
    return dataclasses.replace(base, **({"evaluation": evaluation, "learner": learner} | changes))


def events(run_dir: Path) -> str:
    """What the run told its user, from the texts in TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run_dir), size_guidance={"tensors": 0}).Reload()
    tags = [tag for tag in accumulator.Tags()["tensors"] if tag.startswith("run/events")]
    return "\n".join(e.tensor_proto.string_val[0].decode() for tag in tags for e in accumulator.Tensors(tag))


def snapshot_of(run_dir: Path, shard: int) -> int:
    """Sequences of a shard in the newest checkpoint."""
    directory = Checkpoints(run_dir, 2).latest_or_error(pytest.fail)
    with np.load(directory / f"replay-{shard}.npz") as arrays:
        return len(arrays["order"])


@pytest.mark.faults
def test_a_worker_that_leaks_is_replaced(tmp_path: Path) -> None:
    """100 KB a step: with 2 000 steps or so it is beyond its limit; the new one begins small."""
    environment = EnvironmentConfig(arguments=("fault=leak",))
    cluster = dataclasses.replace(CLUSTER, num_workers=1, num_learners=1, replay_shards=1, worker_memory_gb=0.8)
    run = Run(config_of(env=f"{HOSTILE}", environment=environment, cluster=cluster), tmp_path / "run")
    try:
        run.wait_until(lambda: run.supervisor.state.restarts >= 2, "two replacements")
        run.goes_on("after a leak")
    finally:
        run.stop()
    assert "worker 0 failed (MemoryError: it takes 0." in events(tmp_path / "run")


def test_killed_processes_cost_no_more_than_promised(tmp_path: Path) -> None:
    """kill -9 of a worker, a learner rank, a shard and the weight server, one after the other."""
    run_dir = tmp_path / "run"
    run = Run(config_of(), run_dir)
    supervisor, fleet = run.supervisor, run.fleet
    recovery = {}
    try:
        run.wait_until(lambda: supervisor.state.learner_updates > 20, "learning")
        run.wait_until(lambda: Checkpoints(run_dir, 2).all(), "a checkpoint")
        for restarts, victim in enumerate([("worker", 1), ("learner", 1), ("replay", 1), ("weights", 0)], 1):
            frames, updates = supervisor.env_frames, supervisor.state.learner_updates
            kept = snapshot_of(run_dir, 1)
            pid = fleet.process_ids()[victim]
            os.kill(pid, signal.SIGKILL)
            took = run.wait_until(lambda n=restarts: supervisor.state.restarts == n, f"the restart of {victim}")
            took += run.wait_until(lambda v=victim: fleet.ready(v), f"the return of {victim}")
            recovery[victim] = took + run.goes_on(f"after the loss of {victim}")
            assert fleet.process_ids()[victim] != pid
            # Counters never go back, whoever dies.
            assert supervisor.env_frames > frames
            assert supervisor.state.learner_updates > updates
            if victim[0] == "replay":
                # At most what the shard received since its snapshot is lost.
                stats = fleet.replay.shards[1].begin("stats")()
                assert stats["sequences"] >= kept > 0
            if victim[0] == "weights":
                run.wait_until(lambda: fleet.weights.pull(-1) is not None, "weights to pull")
                version, _ = fleet.weights.pull(-1)
                assert version >= updates, "the learner published again"
        assert supervisor.state.restarts == 4
    finally:
        run.stop()
    print("seconds to recover:", {" ".join(map(str, name)): round(took, 1) for name, took in recovery.items()})
    told = events(run_dir)
    for text in ("worker 1 failed", "learner 0 failed", "rank 1 failed", "replay 1 failed", "weights 0 failed"):
        assert text in told
    metrics = read_metrics(run_dir)
    assert metrics["health/restarts"].values[-1] == 4
    assert np.all(np.diff(metrics["rate/learner_updates"].values) >= 0)
    directory = Checkpoints(run_dir, 2).latest_or_error(pytest.fail)
    assert load_tree(directory, "supervisor")["learner_updates"] == load_tree(directory, "learner")["updates"]


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["raise", "hang"])
def test_a_broken_environment_costs_one_worker_one_request(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment that raises, or that never returns; the others act and learn on meanwhile."""
    marker = tmp_path / "fault"
    monkeypatch.setenv("FAULT_FILE", str(marker))
    cluster = dataclasses.replace(CLUSTER, request_timeout_seconds=30.0)
    run = Run(config_of(env="tests.fakes:Faulty-v0", cluster=cluster), tmp_path / "run")
    supervisor = run.supervisor
    try:
        run.wait_until(lambda: supervisor.state.learner_updates > 20, "learning")
        before = dict(supervisor.state.running_states)
        (tmp_path / "writing").write_text(fault)
        (tmp_path / "writing").rename(marker)
        run.wait_until(lambda: not marker.exists(), "the fault")
        run.goes_on("beside the broken worker")
        run.wait_until(lambda: supervisor.state.restarts == 1, "the worker's restart")
        run.goes_on("after the restart")
        assert supervisor.state.restarts == 1
        # The replacement goes on from what its predecessor had measured.
        counts = [state["novelty"]["count"] for state in before.values()]
        assert min(s["novelty"]["count"] for s in supervisor.state.running_states.values()) >= min(counts)
    finally:
        run.stop()
    told = events(tmp_path / "run")
    assert ("the emulator caught fire once" if fault == "raise" else "no answer within 30 s") in told


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["nan observation", "inf reward", "shape", "no reward"])
def test_bad_values_of_an_environment_cost_episodes_and_nothing_else(fault: str, tmp_path: Path) -> None:
    """Once in a hundred steps: no process is replaced, learning goes on, and the checkpoint holds only numbers."""
    run_dir = tmp_path / "run"
    arguments = EnvironmentConfig(arguments=(f"fault={fault}", "every=0.01"))
    evaluation = dataclasses.replace(tiny_config().evaluation, period_env_frames=1000)
    run = Run(config_of(env=HOSTILE, environment=arguments, evaluation=evaluation), run_dir)
    try:
        run.wait_until(lambda: run.supervisor.state.learner_updates > 20, "learning")
        run.goes_on("beside the faults", frames=3000, updates=100)
        run.wait_until(lambda: run.supervisor.telemetry.score is not None, "a score")
        assert run.supervisor.state.restarts == 0
    finally:
        run.stop()
    metrics = read_metrics(run_dir)
    assert metrics["health/environment_faults"].values[-1] > 20
    assert np.isfinite(metrics["learner/extrinsic_loss"].values).all()
    assert metrics["return/length"].values[-1] == 10
    assert metrics["health/episodes"].values[-1] > metrics["health/episodes"].values[0]
    assert_finite(run_dir)


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["nan observation", "inf reward", "shape", "exit", "interrupt"])
def test_an_environment_that_turns_bad_for_ever_stops_the_run(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a minute or two, with the first cause in one sentence, and what was learned in a checkpoint."""
    if fault in ("exit", "interrupt"):
        # Exceptions have the usual patience: five restarts, with waits that add up to 81 s.
        monkeypatch.setattr("cluster.runtime.recovery.BACKOFF_SECONDS", (1.0,))
    run_dir = tmp_path / "run"
    arguments = EnvironmentConfig(arguments=(f"fault={fault}", "after=200"))
    cluster = dataclasses.replace(CLUSTER, num_learners=1, replay_shards=1, num_workers=1)
    run = Run(config_of(env=HOSTILE, environment=arguments, cluster=cluster), run_dir)
    try:
        error = run.wait_for_end(seconds=180)
        assert isinstance(error, TrainingStopped)
        assert f"{HOSTILE}, lane" in str(error)
        assert "\n" not in str(error)
        assert_finite(run_dir)
        assert (run_dir / "failures" / "worker-0.txt").exists()
    finally:
        run.fleet.close()


@pytest.mark.faults
def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    """The learner's disk is full (its files may not grow): a warning, the run goes on, and recovers by itself."""
    run_dir = tmp_path / "run"
    run = Run(config_of(), run_dir)
    supervisor = run.supervisor
    checkpoints = Checkpoints(run_dir, 2)
    try:
        run.wait_until(lambda: checkpoints.all(), "a checkpoint")
        pid = run.fleet.process_ids()["learner", 0]
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        good = checkpoints.all()
        run.goes_on("without a disk", frames=2000)
        run.wait_until(lambda: "could not be written" in events(run_dir), "the warning")
        assert checkpoints.all()[-1] in (*good, checkpoints.latest_or_error(pytest.fail))
        assert supervisor.state.restarts == 0
        newest = checkpoints.all()[-1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        run.wait_until(lambda: checkpoints.all()[-1] != newest, "the next checkpoint")
    finally:
        run.stop()
    assert checkpoints.latest(pytest.fail) is not None


@pytest.mark.faults
def test_the_driver_is_killed_and_resumed_with_other_numbers(tmp_path: Path) -> None:
    """kill -9 of the driver takes all its processes along; --resume goes on from the last checkpoint, on another
    number of workers, shards and learners, with every bandit and every sequence of it. A flipped bit in the newest
    checkpoint sends it to the one before."""
    run_dir = tmp_path / "run"
    flags = f"--env tests.fakes:Chain-v0 --preset smoke --run-dir {run_dir} --bandit.scope lane --learner.device cpu"
    sizes = "--cluster.num-workers 2 --cluster.replay-shards 2 --cluster.num-learners 2 --cluster.learner-threads 1"
    often = "--checkpoint.period-minutes 0.1 --evaluation.period-env-frames 0 --cluster.updates-per-request 5"
    driver = launch("train", *flags.split(), *sizes.split(), *often.split())
    checkpoints = Checkpoints(run_dir, 2)
    wait_for(lambda: two_that_learned(checkpoints), driver, "two checkpoints")
    family = descendants(driver.pid)
    assert len(family) > 6
    driver.send_signal(signal.SIGKILL)
    driver.communicate(timeout=60)
    # Those that train end with the driver; the last of Ray's own notice within a minute.
    deadline = time.monotonic() + 150
    while any(Path(f"/proc/{pid}").exists() and not zombie(pid) for pid in family):
        assert time.monotonic() < deadline, "processes outlived the driver"
        time.sleep(0.2)

    newest, before = checkpoints.all()[-1], checkpoints.all()[-2]
    blobs = newest / "replay-1.blobs"
    damaged = bytearray(blobs.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    blobs.write_bytes(damaged)
    assert saved_shards(before) == 2
    state = load_tree(before, "supervisor")
    held = sum(len(np.load(before / f"replay-{shard}.npz")["order"]) for shard in range(2))

    sizes = "--cluster.num-workers 1 --cluster.replay-shards 3 --cluster.num-learners 1"
    until = str(state["env_steps"] + 50)
    resumed = launch(
        "train", "--resume", str(run_dir), "--trust-modules", "tests.fakes", *sizes.split(), "--max-env-frames", until
    )
    output = resumed.communicate(timeout=400)[0]
    assert resumed.returncode == 0, output
    assert "is damaged" in output
    last = checkpoints.latest_or_error(pytest.fail)
    assert saved_shards(last) == 3
    after = load_tree(last, "supervisor")
    assert after["env_steps"] >= state["env_steps"] + 50
    assert after["learner_updates"] >= state["learner_updates"] > 0
    now = [len(np.load(last / f"replay-{shard}.npz")["order"]) for shard in range(3)]
    assert sum(now) >= held, "every sequence of the checkpoint was distributed"
    assert max(now) - min(now) <= 0.5 * sum(now)
    # Bandits go by lane: those of the first worker's lanes hold what they held, and more.
    lanes = SMOKE_LANES
    pulls = [[len(bandit["arms"]) for bandit in s["meta_controller"]["bandits"][:lanes]] for s in (state, after)]
    assert all(new >= old for old, new in zip(*pulls, strict=True))
    assert sum(pulls[0]) > 0
    assert after["env_steps"] - state["env_steps"] < 5000, "the resumed run began at the older checkpoint"


SMOKE_LANES = 4


def two_that_learned(checkpoints: Checkpoints) -> bool:
    found = checkpoints.all()
    try:
        return len(found) >= 2 and load_tree(found[-2], "supervisor")["learner_updates"] > 0
    except UserError:  # it has made way for a newer one meanwhile
        return False


def launch(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "launch.py", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition: object, process: subprocess.Popen[str], what: str, seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()[0]
        if time.monotonic() > deadline:
            process.terminate()
            pytest.fail(f"{what} did not happen:\n{process.communicate()[0]}")
        time.sleep(0.2)


def descendants(pid: int) -> set[int]:
    """All processes below ``pid`` now."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found, grown = {pid}, True
    while grown:
        grown = {child for child, parent in parents.items() if parent in found} - found
        found |= grown
    return found - {pid}


def zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_the_saved_shards_of_a_run_are_numbered(tmp_path: Path) -> None:
    """`saved_shards` counts files as `ReplayShard.save` names them."""
    from cluster.runtime.sharded_replay import ReplayShard

    config = config_of().replay
    for index in range(3):
        ReplayShard(config, 0, index, 3, None).save(str(tmp_path))
    assert saved_shards(tmp_path) == 3
    assert json.loads((tmp_path / "replay-2.json").read_text())["total_added_sequences"] == 0
