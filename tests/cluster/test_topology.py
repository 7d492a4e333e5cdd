"""The plan: what `auto` derives from the nodes, what is warned of, and what is refused with its reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from agent57.structures import EnvironmentSpec, SequenceSpec
from cluster.plan.placement import Load, Node, place
from cluster.plan.topology import Topology, plan_rows, plan_topology
from cluster.run.config import ClusterConfig, TrainConfig
from cluster.run.errors import UserError
from cluster.run.presets import SMALL

SPEC = SequenceSpec(EnvironmentSpec((4,), "float32", 1.0, 2), SMALL.sequence.trace_length, SMALL.network.lstm_size)
GPU_NODE, CPU_NODE = Node("gpu", 16, 2, 64e9), Node("cpu", 32, 0, 64e9)


def config_of(learner: dict[str, Any] | None = None, **cluster: Any) -> TrainConfig:
    base = dataclasses.replace(SMALL.cluster, **cluster)
    return dataclasses.replace(SMALL, cluster=base, learner=dataclasses.replace(SMALL.learner, **(learner or {})))


def plan(nodes: list[Node], learner: dict[str, Any] | None = None, **cluster: Any) -> Topology:
    return plan_topology(config_of(learner, **cluster), SPEC, nodes)


def test_auto_uses_every_core_once() -> None:
    topology = plan([GPU_NODE, CPU_NODE, CPU_NODE])
    assert topology.learner_device == "cuda"
    reserved = topology.learner.cores + topology.replay_shards + 1 + topology.num_workers
    assert reserved == 16 + 32 + 32
    assert topology.placement.placed_workers == topology.num_workers
    assert topology.replay_shards == -(-topology.num_workers // 32)
    assert topology.warnings == ()
    by_node = topology.placement.processes
    assert {name.split()[0] for name in by_node[0]} >= {"learner", "replay"}, "learner and shards are together"


def test_learners_take_a_gpu_each_and_workers_may_share_one() -> None:
    topology = plan([GPU_NODE, CPU_NODE], num_learners=2)
    assert (topology.num_learners, topology.learner.gpus) == (2, 1.0)
    shared = plan([GPU_NODE], num_learners=1, worker_gpu_fraction=0.25)
    assert (shared.num_workers, shared.worker.gpus) == (4, 0.25)


def test_workers_without_room_wait_for_nodes() -> None:
    topology = plan([Node("a", 8, 0, 64e9)], num_workers=20, learner_threads=2)
    assert topology.num_workers == 20
    assert topology.placement.placed_workers == 4
    assert "4 of 20 workers have room now" in topology.warnings[0]
    assert topology.evaluator.cores == 1


@pytest.mark.parametrize(
    ("nodes", "changes", "reason"),
    [
        ([GPU_NODE], {"num_learners": 4}, "4 learners need a GPU each, but there are 2"),
        ([CPU_NODE], {"learner": {"device": "cuda"}}, "learner.device cuda is not there"),
        ([GPU_NODE], {"learner": {"device": "cuda:1"}}, "names one GPU"),
        ([Node("a", 4, 0, 64e9)], {"learner_threads": 8}, "No node has room for learner 0, which needs 8 cores"),
        ([Node("a", 3, 0, 64e9)], {"learner_threads": 1, "replay_shards": 5}, "No node has room for replay 2"),
        ([Node("a", 2, 0, 64e9)], {"learner_threads": 1}, "No node has room for a worker"),
        ([Node("a", 32, 0, 8e9)], {}, "on node a, but 8.0 GB are available"),
        ([], {}, "no node that is alive"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_reason(nodes: list[Node], changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        plan(nodes, **changes)


def test_tight_memory_is_warned_of() -> None:
    needed = plan([Node("a", 32, 0, 64e9)]).placement.bytes_per_node[0]
    (warning,) = plan([Node("a", 32, 0, needed / 0.8)]).warnings
    assert "memory is tight on a" in warning


def test_the_plan_is_printed_by_node(tmp_path: Path) -> None:
    config = config_of(num_workers=40)
    topology = plan_topology(config, SPEC, [GPU_NODE, CPU_NODE])
    rows = dict(plan_rows(config, SPEC, topology, tmp_path))
    assert rows["mode"] == "Ray cluster: 2 nodes with 48 free cores and 2 free GPUs"
    assert rows["node gpu"].startswith("16 cores, 2 GPUs: 1 learner, 2 replay")
    assert "workers" in rows["node cpu"]
    assert "of 64.0 GB" in rows["node cpu"]


def test_this_machine_reserves_nothing_and_serial_is_one_of_each() -> None:
    topology = plan_topology(config_of(num_workers=3, replay_shards=2, learner={"device": "cpu"}), SPEC)
    assert (topology.num_workers, topology.replay_shards, topology.joined) == (3, 2, False)
    assert topology.worker.cores == topology.learner.cores == topology.shard.cores == 0
    serial = dataclasses.replace(config_of(num_workers=3, replay_shards=2, num_learners=2), serial=True)
    topology = plan_topology(serial, SPEC)
    assert (topology.num_workers, topology.replay_shards, topology.num_learners) == (1, 1, 1)


def test_a_batch_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be split over 3 learners"):
        config_of(num_learners=3)
    assert ClusterConfig().num_learners == 1


def test_placement_packs_the_fixed_and_spreads_the_workers() -> None:
    nodes = [Node(name, 4, 0, 1e9) for name in "abc"]
    one = Load(1, 0, 1.0)
    placement = place(nodes, [("learner 0", one), ("replay 0", one)], one, one, 6, overhead=0)
    assert placement.processes[0][:2] == ["learner 0", "replay 0"]
    assert placement.placed_workers == 6
    assert [len(names) for names in placement.processes] == [3, 3, 3]
    assert placement.total_bytes == 9
