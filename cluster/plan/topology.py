"""The plan of a run: which processes, on which nodes and devices, with how much memory; refused if it cannot fit.

Made and printed before anything starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from actors.evaluator import lanes_of
from agent57.family import PolicyFamily, lane_epsilons
from agent57.novelty import make_networks, novelty_of
from agent57.structures import SequenceSpec
from agent57.torsos import Torso, resolve_torso_dtype
from cluster.plan.machine import available_memory_bytes, usable_cores
from cluster.plan.placement import Load, Node, Placement, place
from cluster.run.config import TrainConfig
from cluster.run.errors import UserError, counted
from learner.learner import resolve_device
from replay.codec import stored_bytes

PROCESS_BYTES = 350e6
"""Measured: a process with torch, Ray and an emulator, before networks and buffers."""
MEMORY_FRACTION = 0.9
"""Share of a node's available memory that a plan may need."""
TIGHT_FRACTION = 0.75
"""Share from which on the plan warns."""
WORKERS_PER_SHARD = 32
"""A shard takes what this many workers send and serves a learner beside (docs/architecture.md)."""
LEARNER_THREADS = 4
"""CPU threads that a learner asks for on a cluster, where nodes have them."""


@dataclass(frozen=True)
class Topology:
    """Processes and what they may use.

    ``joined``: on a Ray cluster that was there before, where all reserve cores. ``serial``: everything in this process.

    ``worker``, ``learner``, ``shard`` are what one process of each kind takes; ``placement`` says what goes where.
    """

    nodes: tuple[Node, ...]
    joined: bool
    serial: bool
    num_workers: int
    lanes_per_worker: int
    num_learners: int
    replay_shards: int
    learner_threads: int
    learner_device: str
    learner_gpus: float
    worker: Load
    learner: Load
    shard: Load
    evaluator: Load
    placement: Placement
    warnings: tuple[str, ...]

    @property
    def total_lanes(self) -> int:
        return self.num_workers * self.lanes_per_worker

    @property
    def num_cores(self) -> int:
        return int(sum(node.cores for node in self.nodes))

    @property
    def planned_bytes(self) -> dict[str, float]:
        """Upper estimate of the resident memory of one process, by kind; "all" where one process does everything."""
        if self.serial:
            return {"all": self.needed_bytes}
        loads = {"worker": self.worker, "learner": self.learner, "replay": self.shard, "evaluator": self.evaluator}
        return {kind: load.memory_bytes for kind, load in loads.items()}

    @property
    def needed_bytes(self) -> float:
        """Upper estimate of the resident memory of all processes that have room."""
        return self.placement.total_bytes


def this_machine() -> Node:
    """The node of a run that starts its own Ray, or none."""
    import torch

    return Node("this machine", float(usable_cores()), float(torch.cuda.device_count()), available_memory_bytes())


def plan_topology(config: TrainConfig, spec: SequenceSpec, nodes: Sequence[Node] | None = None) -> Topology:
    """The topology of ``config`` on ``nodes`` of a Ray cluster, or else on this machine.

    Raises UserError, saying what to change, if cores, devices or memory are missing.
    """
    joined = nodes is not None
    machines = tuple(nodes) if nodes is not None else (this_machine(),)
    if not machines:
        raise UserError("The Ray cluster has no node that is alive: start one with 'ray start'.")
    cluster, serial = config.cluster, config.serial
    learners = 1 if serial else cluster.num_learners
    device = _learner_device(config, machines, learners, joined)
    cores = int(sum(node.cores for node in machines))
    if joined:
        threads = cluster.learner_threads or _threads_on(machines, learners, device)
        workers, shards = _workers_and_shards(config, cores - learners * threads - 1, machines, device)
    else:
        workers = 1 if serial else cluster.num_workers or max(1, cores - learners)
        shards = 1 if serial else cluster.replay_shards or _shards_for(workers)
        threads = 1 if serial else cluster.learner_threads or max(1, (cores - workers) // learners)
    gpu = 1.0 if device == "cuda" and not serial else 0.0
    core = 1.0 if joined else 0.0
    sizes = _Sizes.of(config, spec, learns_here=device == "cpu")
    if sizes.sequence > config.replay.max_gb * 1e9 / shards:
        raise UserError(
            f"One sequence may need {sizes.sequence / 1e9:.2g} GB, but each of {counted(shards, 'shard')} has "
            f"{config.replay.max_gb / shards:.2g} GB: raise --replay.max-gb."
        )
    # A private Ray shares this machine's cores among more processes than cores, so nothing reserves any.
    worker = Load(core, cluster.worker_gpu_fraction, sizes.worker)
    learner = Load(core * threads, gpu, sizes.learner)
    shard = Load(core, 0.0, sizes.shard_base + config.replay.max_gb * 1e9 / shards)
    evaluator = Load(core, 0.0, sizes.evaluator)
    fixed = [*((f"learner {rank}", learner) for rank in range(learners))]
    fixed += [(f"replay {index}", shard) for index in range(shards)]
    placement = place(machines, fixed, evaluator, worker, workers, overhead=sizes.per_node)
    topology = Topology(
        nodes=machines,
        joined=joined,
        serial=serial,
        num_workers=workers,
        lanes_per_worker=cluster.lanes_per_worker,
        num_learners=learners,
        replay_shards=shards,
        learner_threads=threads,
        learner_device=device,
        learner_gpus=gpu,
        worker=worker,
        learner=learner,
        shard=shard,
        evaluator=evaluator if placement.evaluator_has_room else Load(0.0, 0.0, sizes.evaluator),
        placement=placement,
        warnings=(),
    )
    _refuse_what_cannot_fit(config, topology)
    warnings = tuple(_warnings(config, topology))
    return Topology(**(vars(topology) | {"warnings": warnings}))


def _learner_device(config: TrainConfig, nodes: Sequence[Node], learners: int, joined: bool) -> str:
    """The device of every learner, "cpu", "cuda" or, by itself on this machine, "cuda:N"."""
    wanted = config.learner.device
    gpus = int(sum(node.gpus for node in nodes))
    try:
        kind = resolve_device("cpu" if wanted == "auto" else wanted)
    except RuntimeError as error:
        raise UserError(f"learner.device {wanted} is not a device: {error}") from None
    if wanted == "auto":
        if 0 < gpus < learners:
            raise UserError(
                f"{learners} learners need a GPU each, but there {'is' if gpus == 1 else 'are'} {gpus}: "
                f"use --cluster.num-learners {gpus}, or --learner.device cpu."
            )
        return "cuda" if gpus else "cpu"
    if kind.type == "cuda":
        if gpus < max(learners, (kind.index or 0) + 1 if not joined else 1):
            raise UserError(
                f"learner.device {wanted} is not there for {learners} learner{'s' * (learners > 1)} "
                f"({gpus} GPUs found): use --learner.device cpu or auto."
            )
        if kind.index is not None and (learners > 1 or joined):
            raise UserError(f"learner.device {wanted} names one GPU: use --learner.device cuda or auto.")
    return str(kind)


def _threads_on(nodes: Sequence[Node], learners: int, device: str) -> int:
    """Threads of a learner: a few, but no more than half the cores of the nodes that can take one."""
    fitting = [node.cores for node in nodes if device == "cpu" or node.gpus >= 1]
    largest = max(fitting, default=1.0)
    return max(1, min(LEARNER_THREADS, int(largest // 2), int(sum(fitting) // (2 * learners)) or 1))


def _shards_for(workers: int) -> int:
    return max(1, -(-workers // WORKERS_PER_SHARD))


def _workers_and_shards(config: TrainConfig, cores: int, nodes: Sequence[Node], device: str) -> tuple[int, int]:
    """As many workers as ``cores`` allow beside their shards, unless the config says how many."""
    cluster = config.cluster
    workers, shards = cluster.num_workers, cluster.replay_shards
    if not workers:
        workers = max(1, cores - (shards or max(1, -(-cores // (WORKERS_PER_SHARD + 1)))))
        if cluster.worker_gpu_fraction:
            gpus = sum(node.gpus for node in nodes) - (cluster.num_learners if device == "cuda" else 0)
            workers = max(1, min(workers, int(gpus / cluster.worker_gpu_fraction + 1e-9)))
    return workers, shards or _shards_for(workers)


def _refuse_what_cannot_fit(config: TrainConfig, topology: Topology) -> None:
    """UserError with the reason, so that nothing waits for ever for a place that does not exist."""
    placement, cluster = topology.placement, config.cluster
    fraction = cluster.worker_gpu_fraction
    if fraction and not topology.joined:
        free = topology.nodes[0].gpus - topology.num_learners * topology.learner_gpus
        if topology.num_workers * fraction > free + 1e-9:
            raise UserError(
                f"{topology.num_workers} workers with {fraction:g} of a GPU each do not fit on {free:g} GPUs: lower "
                "--cluster.num-workers or --cluster.worker-gpu-fraction."
            )
    if placement.homeless:
        name, load = placement.homeless[0]
        largest = max(topology.nodes, key=lambda node: (node.gpus, node.cores))
        raise UserError(
            f"No node has room for {name}, which needs {load.cores:g} cores and {load.gpus:g} GPUs beside the others "
            f"(the largest node has {largest.cores:g} and {largest.gpus:g}): lower --cluster.learner-threads, "
            "--cluster.num-learners or --cluster.replay-shards, or add nodes."
        )
    if placement.placed_workers == 0:
        raise UserError(
            f"No node has room for a worker ({topology.worker.cores:g} cores, {topology.worker.gpus:g} GPUs) beside "
            "learners and replay: lower --cluster.learner-threads or --cluster.replay-shards, or add nodes."
        )
    for node, needed in zip(topology.nodes, placement.bytes_per_node, strict=True):
        if needed > MEMORY_FRACTION * node.memory_bytes:
            where = f" on node {node.name}" if topology.joined else ""
            raise UserError(
                f"This run may need {needed / 1e9:.1f} GB{where}, but {node.memory_bytes / 1e9:.1f} GB are "
                "available: lower --replay.max-gb, --cluster.num-workers or --cluster.lanes-per-worker, or take "
                "smaller networks."
            )


def _warnings(config: TrainConfig, topology: Topology) -> list[str]:
    """What fits only just, or not yet."""
    placement, found = topology.placement, []
    waiting = topology.num_workers - placement.placed_workers
    if waiting:
        found.append(
            f"{placement.placed_workers} of {topology.num_workers} workers have room now; "
            "the others start when nodes join"
        )
    for node, needed in zip(topology.nodes, placement.bytes_per_node, strict=True):
        if needed > TIGHT_FRACTION * node.memory_bytes:
            found.append(f"memory is tight on {node.name}: {needed / 1e9:.1f} of {node.memory_bytes / 1e9:.1f} GB")
    if topology.joined and topology.evaluator.cores == 0:
        found.append("the evaluator has no core of its own and slows a worker down")
    if not topology.joined and not config.serial:
        busy = topology.num_workers + topology.num_learners * topology.learner_threads * (topology.learner_gpus == 0)
        if busy > topology.num_cores + 1:
            found.append(f"workers and learner threads ask for {busy} cores, this machine has {topology.num_cores}")
    return found


@dataclass(frozen=True)
class _Sizes:
    """Upper estimates of the resident bytes of one process of each kind."""

    worker: float
    learner: float
    evaluator: float
    shard_base: float
    per_node: float
    sequence: float

    @classmethod
    def of(cls, config: TrainConfig, spec: SequenceSpec, learns_here: bool) -> _Sizes:
        """``learns_here``: what gradients need is kept in this memory, not in a GPU's."""
        weights = 4.0 * network_parameters(config, spec)
        observation = spec.environment.observation_bytes
        lanes = config.cluster.lanes_per_worker
        buffers = (spec.trace_length + 1) * lanes * (observation + 16.0 * spec.lstm_size + 64)
        novelty = novelty_of(config.agent, spec.environment)
        memories = lanes * novelty.bytes_per_lane() + novelty.bytes_per_worker()
        evaluated = lanes_of(config.evaluation, config.family.num_policies)
        evaluators = evaluated * novelty.bytes_per_lane() + novelty.bytes_per_worker()
        sequences = config.learner.batch_size // (1 if config.serial else config.cluster.num_learners)
        batch = (spec.trace_length + 1) * sequences * (observation + 24.0 * config.network.torso_size)
        kept = 4.0 * spec.num_networks * torso_activations(config, spec) * (spec.trace_length + 1) * sequences
        return cls(
            worker=PROCESS_BYTES + 2 * weights + buffers + memories,
            learner=PROCESS_BYTES + 6 * weights + (2 + config.cluster.prefetch_batches) * batch + kept * learns_here,
            evaluator=PROCESS_BYTES + 2 * weights + evaluators,
            shard_base=0.0 if config.serial else PROCESS_BYTES,
            sequence=stored_bytes(spec),
            per_node=0.0 if config.serial else config.cluster.object_store_gb * 1e9,
        )


def torso_activations(config: TrainConfig, spec: SequenceSpec) -> int:
    """Numbers that a Q-network's torso makes of one frame."""
    with torch.device("meta"):
        return Torso(spec.environment, config.network).activations


def network_parameters(config: TrainConfig, spec: SequenceSpec) -> int:
    """Weights of the five networks together."""
    with torch.device("meta"):
        networks = make_networks(config.agent, spec.environment)
    return sum(parameter.numel() for parameter in networks.parameters())


def plan_rows(config: TrainConfig, spec: SequenceSpec, topology: Topology, run_dir: Path) -> list[tuple[str, str]]:
    """The plan as (what, how) rows, for the console and for TensorBoard."""
    environment = spec.environment
    epsilons = lane_epsilons(topology.total_lanes, config.actor.epsilon_base, config.actor.epsilon_alpha)
    family = PolicyFamily.of(config.family)
    shape = " x ".join(str(side) for side in environment.observation_shape)
    device = topology.learner_device
    threads = f", {counted(topology.learner_threads, 'thread')}" if device == "cpu" else ""
    learners = "" if topology.num_learners == 1 else f"{topology.num_learners} x "
    on_gpu = f", {topology.worker.gpus:g} GPU each" if topology.worker.gpus else ""
    rows = [
        ("environment", f"{config.env}: {shape} {environment.observation_dtype}, {environment.num_actions} actions"),
        ("mode", _mode(config, topology)),
        (
            "actors",
            f"{counted(topology.num_workers, 'worker')} x {counted(topology.lanes_per_worker, 'lane')}{on_gpu}, "
            f"epsilon {epsilons[0]:.2g} to {epsilons[-1]:.2g}",
        ),
        (
            "policies",
            f"{config.family.num_policies}, beta 0 to {family.betas[-1]:.2g}, "
            f"gamma {family.discounts[0]:.5g} to {family.discounts[-1]:.5g}",
        ),
        (
            "learner",
            f"{learners}{device}{threads}, batch {config.learner.batch_size} x "
            f"{config.sequence.trace_length}, torsos in {_dtype_name(config.learner.torso_dtype, device)}",
        ),
        ("networks", f"{network_parameters(config, spec) / 1e6:.1f} M weights"),
        (
            "replay",
            f"{counted(topology.replay_shards, 'shard')}, up to {config.replay.capacity_steps:,} steps and "
            f"{config.replay.max_gb:g} GB, {config.replay.replay_ratio:g} trained per step",
        ),
    ]
    if topology.joined:
        for index, node in enumerate(topology.nodes):
            rows.append((f"node {node.name}", topology.placement.describe(index)))
    else:
        available = topology.nodes[0].memory_bytes
        rows.append(("memory", f"up to {topology.needed_bytes / 1e9:.1f} of {available / 1e9:.1f} GB available"))
    rows += [("warning", warning) for warning in topology.warnings]
    return [*rows, ("run folder", str(run_dir)), ("watch", f"tensorboard --logdir {run_dir.parent}")]


def _mode(config: TrainConfig, topology: Topology) -> str:
    if config.serial:
        return "serial, in this process"
    gpus = sum(node.gpus for node in topology.nodes)
    if not topology.joined:
        return f"Ray, {topology.num_cores} cores"
    nodes = counted(len(topology.nodes), "node")
    return f"Ray cluster: {nodes} with {topology.num_cores} free cores and {gpus:g} free GPUs"


def _dtype_name(name: str, device: str) -> str:
    return str(resolve_torso_dtype(name, device)).removeprefix("torch.")
