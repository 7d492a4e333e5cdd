"""The plan of a run: which processes, on which devices, with how much memory; refused here if it cannot fit.

Made and printed before anything starts. Called by `cluster/commands.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent57.networks import Agent57Networks, resolve_torso_dtype
from agent57.policy_family import PolicyFamily, lane_epsilons
from agent57.structures import SequenceSpec
from cluster.config import TrainConfig
from cluster.doctor import available_memory_bytes, usable_cores
from cluster.errors import UserError
from learner.learner import resolve_device

PROCESS_BYTES = 350e6
"""Measured: a process with torch, Ray and an emulator, before networks and buffers."""
MEMORY_FRACTION = 0.9
"""Share of the available memory that a plan may need."""


@dataclass(frozen=True)
class Topology:
    """Processes and what they may use, all on this machine."""

    num_cores: int
    num_workers: int
    lanes_per_worker: int
    learner_threads: int
    learner_device: str
    learner_gpus: float
    needed_bytes: float
    available_bytes: float

    @property
    def total_lanes(self) -> int:
        return self.num_workers * self.lanes_per_worker


def plan_topology(config: TrainConfig, spec: SequenceSpec) -> Topology:
    """The topology of ``config`` on this machine.

    Raises UserError, saying what to change, if devices or memory are missing.
    """
    cores = usable_cores()
    cluster = config.cluster
    workers = 1 if config.serial else cluster.num_workers or max(1, cores - 1)
    threads = 1 if config.serial else cluster.learner_threads or max(1, cores - workers)
    try:
        device = resolve_device(config.learner.device)
    except RuntimeError as error:
        raise UserError(f"learner.device {config.learner.device} is not a device: {error}") from None
    if device.type == "cuda":
        import torch

        if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f"learner.device {config.learner.device} is not there: use --learner.device cpu or auto.")
    topology = Topology(
        num_cores=cores,
        num_workers=workers,
        lanes_per_worker=cluster.lanes_per_worker,
        learner_threads=threads,
        learner_device=str(device),
        learner_gpus=1.0 if device.type == "cuda" and not config.serial else 0.0,
        needed_bytes=_needed_bytes(config, spec, workers),
        available_bytes=available_memory_bytes(),
    )
    if topology.needed_bytes > MEMORY_FRACTION * topology.available_bytes:
        raise UserError(
            f"This run may need {topology.needed_bytes / 1e9:.1f} GB, but {topology.available_bytes / 1e9:.1f} GB are "
            "available: lower --replay.max-gb, --cluster.num-workers or --cluster.lanes-per-worker."
        )
    return topology


def network_parameters(config: TrainConfig, spec: SequenceSpec) -> int:
    """Weights of the five networks together."""
    networks = Agent57Networks(spec.environment, config.family.num_policies, config.network)
    return sum(parameter.numel() for parameter in networks.parameters())


def _needed_bytes(config: TrainConfig, spec: SequenceSpec, workers: int) -> float:
    """Upper estimate of the run's resident memory: processes, networks, replay, episodic memories, buffers."""
    weights = 4.0 * network_parameters(config, spec)
    observation = 1 if spec.environment.observation_dtype == "uint8" else 4
    for side in spec.environment.observation_shape:
        observation *= side
    steps = (spec.trace_length + 1) * config.cluster.lanes_per_worker
    buffers = steps * (observation + 16.0 * spec.lstm_size + 64)
    memories = config.cluster.lanes_per_worker * config.intrinsic.memory_capacity * config.network.embedding_size * 4.0
    batch = (spec.trace_length + 1) * config.learner.batch_size * (observation + 24.0 * config.network.torso_size)
    per_worker = PROCESS_BYTES + 2 * weights + buffers + memories
    learner = PROCESS_BYTES + 6 * weights + (2 + config.cluster.prefetch_batches) * batch
    rest = (2 * PROCESS_BYTES + config.cluster.object_store_gb * 1e9) if not config.serial else PROCESS_BYTES
    return workers * per_worker + learner + rest + config.replay.max_gb * 1e9


def plan_rows(config: TrainConfig, spec: SequenceSpec, topology: Topology, run_dir: Path) -> list[tuple[str, str]]:
    """The plan as (what, how) rows, for the console and for TensorBoard."""
    environment = spec.environment
    epsilons = lane_epsilons(topology.total_lanes, config.actor.epsilon_base, config.actor.epsilon_alpha)
    family = PolicyFamily(**vars(config.family))
    shape = " x ".join(str(side) for side in environment.observation_shape)
    mode = "serial, in this process" if config.serial else f"Ray, {topology.num_cores} cores"
    device = topology.learner_device
    threads = ", " + _counted(topology.learner_threads, "thread")
    return [
        ("environment", f"{config.env}: {shape} {environment.observation_dtype}, {environment.num_actions} actions"),
        ("mode", mode),
        (
            "actors",
            f"{_counted(topology.num_workers, 'worker')} x {_counted(topology.lanes_per_worker, 'lane')}, "
            f"epsilon {epsilons[0]:.2g} to {epsilons[-1]:.2g}",
        ),
        (
            "policies",
            f"{config.family.num_policies}, beta 0 to {family.betas[-1]:.2g}, "
            f"gamma {family.discounts[0]:.5g} to {family.discounts[-1]:.5g}",
        ),
        (
            "learner",
            f"{device}{threads if device == 'cpu' else ''}, batch {config.learner.batch_size} x "
            f"{config.sequence.trace_length}, torsos in {_dtype_name(config.learner.torso_dtype, device)}",
        ),
        ("networks", f"{network_parameters(config, spec) / 1e6:.1f} M weights"),
        (
            "replay",
            f"1 shard, up to {config.replay.capacity_steps:,} steps and {config.replay.max_gb:g} GB, "
            f"{config.replay.replay_ratio:g} trained per step",
        ),
        ("memory", f"up to {topology.needed_bytes / 1e9:.1f} of {topology.available_bytes / 1e9:.1f} GB available"),
        ("run folder", str(run_dir)),
        ("watch", f"tensorboard --logdir {run_dir.parent}"),
    ]


def _dtype_name(name: str, device: str) -> str:
    return str(resolve_torso_dtype(name, device)).removeprefix("torch.")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
