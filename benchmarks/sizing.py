"""Cores, memory and network that a number of lanes takes, as the table of docs/cluster.md.

    python -m benchmarks.sizing [--lanes 1 32 512]

Processes, cores and memory are those of the plan that `launch.py train --preset paper` would make on nodes of 16
cores, the first with a GPU. Rates are computed from what was measured, `MEASURED`, with the command beside each.
"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass

from agent57.structures import SequenceSpec
from benchmarks.networks import ATARI
from cluster.plan.placement import Node
from cluster.plan.topology import Topology, network_parameters, plan_topology
from cluster.run.config import TrainConfig
from cluster.run.presets import PAPER

LANES_PER_WORKER = 16
NODE_CORES, NODE_GB = 16, 64
MEASURED_STEPS_PER_SECOND = {1: 87.0, 16: 420.0}
"""Environment steps/s of one worker by its lanes: `python -m benchmarks.acting --lanes N --dtype float32`, Pong, per
second of processor time on a machine with much else to do, so at the low end."""
SEQUENCE_BYTES = 17_200
"""One encoded sequence of 160 steps of Pong: `python -m benchmarks.scale`. Other games' take up to 3 times as much."""


@dataclass(frozen=True)
class Size:
    """What one number of lanes takes."""

    lanes: int
    topology: Topology
    steps_per_second: float
    updates_per_second: float
    """That the replay ratio asks for."""
    replay_mb_per_second: float
    batch_mb_per_second: float
    weights_mb_per_second: float
    """To each worker node, if every update is published: when the learner waits for the workers."""
    replay_gb: float
    """Of a full replay."""

    @property
    def worker_nodes(self) -> int:
        """Nodes beside the learner's."""
        return len(self.topology.nodes) - 1


def size(lanes: int, config: TrainConfig = PAPER) -> Size:
    """The size of a run of ``lanes`` lanes with ``config`` otherwise."""
    per_worker = min(lanes, LANES_PER_WORKER)
    workers = lanes // per_worker
    cluster = dataclasses.replace(config.cluster, num_workers=workers, lanes_per_worker=per_worker)
    config = dataclasses.replace(config, cluster=cluster)
    spec = SequenceSpec.of(config.agent, ATARI)
    first = Node("learner node", NODE_CORES, 1, NODE_GB * 1e9)
    others = [Node(f"worker node {n}", NODE_CORES, 0, NODE_GB * 1e9) for n in range(-(-workers // NODE_CORES))]
    topology = plan_topology(config, spec, [first, *(others if workers > 2 else [])])
    steps = workers * MEASURED_STEPS_PER_SECOND[per_worker]
    updates = steps * config.replay.replay_ratio / (config.learner.batch_size * config.sequence.trace_length)
    period = config.sequence.replay_period
    return Size(
        lanes=lanes,
        topology=topology,
        steps_per_second=steps,
        updates_per_second=updates,
        replay_mb_per_second=steps / period * SEQUENCE_BYTES / 1e6,
        batch_mb_per_second=updates * config.learner.batch_size * SEQUENCE_BYTES / 1e6,
        weights_mb_per_second=updates * 4 * network_parameters(config, spec) / 1e6,
        replay_gb=min(config.replay.max_gb, config.replay.capacity_steps / period * SEQUENCE_BYTES / 1e9),
    )


def table(sizes: list[Size]) -> str:
    """The sizes as Markdown, a column each."""
    rows: list[tuple[str, list[str]]] = [
        ("workers x lanes", [f"{s.topology.num_workers} x {s.topology.lanes_per_worker}" for s in sizes]),
        ("environment steps per second", [_number(s.steps_per_second) for s in sizes]),
        ("updates per second for a replay ratio of 0.8", [_number(s.updates_per_second) for s in sizes]),
        ("cores for workers", [str(s.topology.num_workers) for s in sizes]),
        ("cores for learner, shards, evaluator", [_others(s.topology) for s in sizes]),
        ("nodes", [_nodes(s) for s in sizes]),
        ("memory on the learner's node, up to", [f"{_node_gb(s, 0):.0f} GB" for s in sizes]),
        ("memory on a worker node, up to", [f"{_node_gb(s, 1):.0f} GB" if s.worker_nodes else "-" for s in sizes]),
        ("full replay; each checkpoint", [f"{s.replay_gb:.1f} GB" for s in sizes]),
        ("sequences into the replay", [f"{_number(s.replay_mb_per_second)} MB/s" for s in sizes]),
        ("batches out of it", [f"{_number(s.batch_mb_per_second)} MB/s" for s in sizes]),
        ("weights to each node", [f"up to {_number(s.weights_mb_per_second)} MB/s" for s in sizes]),
    ]
    lanes = [f"{s.lanes} lane{'s' * (s.lanes > 1)}" for s in sizes]
    head = [f"| | {' | '.join(lanes)} |", "|---" * (len(sizes) + 1) + "|"]
    return "\n".join([*head, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows)]) + "\n"


def _number(value: float) -> str:
    """Two significant digits."""
    return f"{float(f'{value:.2g}'):,.10g}"


def _others(topology: Topology) -> str:
    cores = topology.num_learners * topology.learner.cores + topology.replay_shards * topology.shard.cores
    return f"{cores + topology.evaluator.cores:g}, and a GPU"


def _nodes(size: Size) -> str:
    return "1 with a GPU" + (f", {size.worker_nodes} of {NODE_CORES} cores" if size.worker_nodes else "")


def _node_gb(size: Size, index: int) -> float:
    return size.topology.placement.bytes_per_node[index] / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 32, 512])
    print(table([size(lanes) for lanes in parser.parse_args().lanes]), end="")


if __name__ == "__main__":
    main()
