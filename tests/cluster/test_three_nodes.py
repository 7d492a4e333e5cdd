"""Three Ray nodes on this machine: workers on two of them, two shards, two learner ranks; a node leaves, one joins."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from cluster.on_ray.fleet import RayFleet
from cluster.on_ray.session import cluster_nodes, join_cluster
from cluster.run.checkpoint import Checkpoints, load_tree
from cluster.run.config import CheckpointConfig, ClusterConfig, TrainConfig
from cluster.run.messages import ProcessId
from cluster.telemetry.metrics import read_metrics
from replay.redistribution import saved_shards
from tests.cluster.running import Run
from tests.cluster.tiny import tiny_config

# A dead node is noticed in some 4 s instead of 15; more slack than that for a busy machine, where none is dead.
QUICK_HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "3000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "4",
}
STORE = 80 << 20


pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]  # half a minute on a quiet machine


@pytest.fixture
def make_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Cluster]]:
    """``make_cluster(head, a, b)``: a cluster of nodes with so many cores each."""
    for name, value in QUICK_HEALTH_CHECKS.items():
        monkeypatch.setenv(name, value)
    clusters = []

    def make(head_cores: int, *cores: int) -> Cluster:
        head = {"num_cpus": head_cores, "object_store_memory": STORE, "include_dashboard": False}
        clusters.append(Cluster(initialize_head=True, head_node_args=head))
        for count in cores:
            clusters[0].add_node(num_cpus=count, object_store_memory=STORE)
        return clusters[0]

    try:
        yield make
    finally:
        for cluster in clusters:
            cluster.shutdown()


def config_for(cluster: Cluster, num_workers: int) -> TrainConfig:
    """Two learners and two shards of one core each, and workers, on a cluster."""
    settings = ClusterConfig(
        address=cluster.address,
        num_workers=num_workers,
        lanes_per_worker=4,
        num_learners=2,
        learner_threads=1,
        replay_shards=2,
        updates_per_request=5,
    )
    base = tiny_config(serial=False, cluster=settings)
    return dataclasses.replace(
        base,
        learner=dataclasses.replace(base.learner, device="cpu"),
        evaluation=dataclasses.replace(base.evaluation, period_env_frames=0),
    )


def node_ids(fleet: RayFleet) -> dict[ProcessId, str]:
    """Ray's name of the node that each process with a place runs on."""
    return {process: location.node_id for process, location in fleet._locations.items()}


def test_a_node_leaves_and_another_joins(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    ray_cluster = make_cluster(4, 1, 1)
    config = config_for(ray_cluster, num_workers=2)
    run_dir = tmp_path / "run"
    session = join_cluster(config)
    nodes = cluster_nodes()
    assert sorted(node.cores for node in nodes) == [1, 1, 4]
    run = Run(config, run_dir, session=session, nodes=nodes)
    try:
        supervisor, fleet = run.supervisor, run.fleet
        run.wait_until(lambda: supervisor.state.learner_updates > 20, "learning")
        places = node_ids(fleet)
        group = {places[process] for process in places if process[0] in ("learner", "replay")}
        homes = [places["worker", number] for number in range(2)]
        assert len(group) == 1, "learners and shards are near each other"
        assert len({*homes, *group}) == 3, "workers are spread over the other nodes"
        run.wait_until(lambda: all(s.get("sequences", 0) > 10 for s in supervisor.shards.latest), "both shards filling")
        held = [stats["sequences"] for stats in supervisor.shards.latest]
        assert max(held) <= 2 * min(held) + 20, "shards take turns"

        lost = next(node for node in ray_cluster.worker_nodes if node.node_id == homes[1])
        updates = supervisor.state.learner_updates
        ray_cluster.remove_node(lost, allow_graceful=False)
        run.wait_until(lambda: supervisor.state.restarts >= 1, "the worker's restart")
        run.goes_on("with one worker")
        assert supervisor.state.learner_updates > updates
        assert fleet.waiting() == [("worker", 1)]

        ray_cluster.add_node(num_cpus=1, object_store_memory=STORE)
        run.wait_until(lambda: fleet.waiting() == [], "the worker's return")
        assert node_ids(fleet)["worker", 1] not in {*homes, *group}
        before = supervisor.state.running_states[1]
        run.wait_until(lambda: supervisor.state.running_states[1] is not before, "a reply of the worker that came back")
        run.goes_on("with two workers again")
    finally:
        run.stop()

    metrics = read_metrics(run_dir)
    series = metrics["rate/learner_updates"]
    assert np.all(np.diff(series.env_frames) >= 0)
    assert np.all(np.diff(series.values) >= 0)
    checkpoint = Checkpoints(run_dir, 2).latest_or_error(pytest.fail)
    assert saved_shards(checkpoint) == 2
    state = load_tree(checkpoint, "supervisor")
    assert state["learner_updates"] == load_tree(checkpoint, "learner")["updates"] == series.values[-1]
    assert state["restarts"] >= 1
    assert not os.environ.get("RAY_ADDRESS")


@pytest.mark.faults
def test_the_node_of_learners_and_shards_is_told_to_leave_and_leaves(
    make_cluster: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint at the notice; then the group finds a place, for which workers make way, and goes on from there."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    monkeypatch.setattr("cluster.runtime.supervisor.WAITING_SECONDS", 10.0)
    ray_cluster = make_cluster(0, 4, 4)
    rare = CheckpointConfig(period_minutes=600.0)
    config = dataclasses.replace(config_for(ray_cluster, num_workers=4), checkpoint=rare)
    run_dir = tmp_path / "run"
    session = join_cluster(config)
    run = Run(config, run_dir, session=session, nodes=cluster_nodes())
    checkpoints = Checkpoints(run_dir, 2)
    try:
        supervisor, fleet = run.supervisor, run.fleet
        run.wait_until(lambda: supervisor.state.learner_updates > 20, "learning")
        places = node_ids(fleet)
        (home,) = {places[process] for process in places if process[0] in ("learner", "replay")}
        assert home not in {places["worker", number] for number in range(4)}
        assert checkpoints.all() == []

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = (int(time.time()) + 3600) * 1000
        accepted, why = GcsClient(address=ray_cluster.address).drain_node(home, reason, "spot notice", deadline_ms)
        assert accepted, why
        run.wait_until(checkpoints.all, "the checkpoint at the notice")
        saved = load_tree(checkpoints.latest_or_error(pytest.fail), "supervisor")

        lost = next(node for node in ray_cluster.worker_nodes if node.node_id == home)
        ray_cluster.remove_node(lost, allow_graceful=False)
        run.wait_until(lambda: len(fleet.waiting()) >= 4, "workers to make way, or the group to wait")
        run.wait_until(lambda: fleet.can_save, "learners and shards elsewhere")
        updates = supervisor.state.learner_updates
        assert updates >= saved["learner_updates"]
        # All four workers made way for two learners and two shards; a new node takes them.
        ray_cluster.add_node(num_cpus=4, object_store_memory=STORE)
        run.goes_on("with learners and shards on the other node")
        assert node_ids(fleet)["learner", 0] != home
        run.wait_until(lambda: fleet.waiting() == [], "the workers' return")
    finally:
        run.stop()
