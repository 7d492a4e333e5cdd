"""Three Ray nodes on this machine: workers on two of them, two shards, two learner ranks; a node leaves, one joins."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from cluster.checkpoint import Checkpoints, load_tree
from cluster.config import ClusterConfig
from cluster.metrics import read_metrics
from cluster.ray_session import cluster_nodes, join_cluster
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


pytestmark = pytest.mark.timeout(900)  # half a minute on a quiet machine


@pytest.fixture
def ray_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head node with room for learners and shards, and two nodes with room for one worker each."""
    for name, value in QUICK_HEALTH_CHECKS.items():
        monkeypatch.setenv(name, value)
    head = {"num_cpus": 4, "object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=STORE)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def test_a_node_leaves_and_another_joins(ray_cluster: Cluster, tmp_path: Path) -> None:
    settings = ClusterConfig(
        address=ray_cluster.address,
        num_workers=2,
        lanes_per_worker=4,
        num_learners=2,
        learner_threads=1,
        replay_shards=2,
        updates_per_request=5,
    )
    base = tiny_config(serial=False, cluster=settings)
    config = dataclasses.replace(
        base,
        learner=dataclasses.replace(base.learner, device="cpu"),
        evaluation=dataclasses.replace(base.evaluation, period_env_frames=0),
    )
    run_dir = tmp_path / "run"
    session = join_cluster(config)
    nodes = cluster_nodes()
    assert sorted(node.cores for node in nodes) == [1, 1, 4]
    run = Run(config, run_dir, session=session, nodes=nodes)
    try:
        supervisor, fleet = run.supervisor, run.fleet
        run.wait_until(lambda: supervisor.learner_updates > 20, "learning")
        places = fleet.node_ids()
        group = {places[process] for process in places if process[0] in ("learner", "replay")}
        homes = [places["worker", number] for number in range(2)]
        assert len(group) == 1, "learners and shards are near each other"
        assert len({*homes, *group}) == 3, "workers are spread over the other nodes"
        run.wait_until(lambda: all(s.get("sequences", 0) > 10 for s in supervisor.shards.latest), "both shards filling")

        lost = next(node for node in ray_cluster.worker_nodes if node.node_id == homes[1])
        updates = supervisor.learner_updates
        ray_cluster.remove_node(lost, allow_graceful=False)
        run.wait_until(lambda: supervisor.restarts >= 1, "the worker's restart")
        run.goes_on("with one worker")
        assert supervisor.learner_updates > updates
        assert fleet.waiting() == [("worker", 1)]

        ray_cluster.add_node(num_cpus=1, object_store_memory=STORE)
        run.wait_until(lambda: fleet.waiting() == [], "the worker's return")
        assert fleet.node_ids()["worker", 1] not in {*homes, *group}
        before = supervisor._running_states[1]
        run.wait_until(lambda: supervisor._running_states[1] is not before, "a reply of the worker that came back")
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
