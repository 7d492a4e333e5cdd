"""Recorded sequences of Pong, for machines without an emulator; written by `benchmarks.gpu_hour --record`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from agent57.config import AgentConfig
from agent57.structures import EnvironmentSpec, SequenceBatch, SequenceSpec, padded_batch
from cluster.run.presets import PAPER

RECORDING = Path(__file__).parent / "pong_sequences.npz"
FIELDS = ("observations", "previous_actions", "actions", "behaviour_probs", "extrinsic_rewards", "intrinsic_rewards")


def record(path: Path, count: int = 8) -> None:
    """Write ``count`` sequences of random play of Pong, as a worker of preset ``paper`` makes them."""
    from actors.rollout import RolloutWorker

    actor = dataclasses.replace(PAPER.actor, epsilon_base=1.0, epsilon_alpha=0.0)
    length = PAPER.sequence.trace_length
    worker = RolloutWorker("ALE/Pong-v5", PAPER.agent, actor, PAPER.environment, 0, count, count, seed=0)
    worker.rollout(200, [[lane] for lane in range(count)])
    found = worker.rollout(2 * length, [[lane] for lane in range(count)]).sequences
    found = [sequence for sequence in found if sequence.num_transitions == length][:count]
    arrays = {name: np.stack([getattr(sequence, name) for sequence in found]) for name in FIELDS}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def recorded_batch(spec: SequenceSpec, batch_size: int, num_policies: int) -> SequenceBatch[np.ndarray]:
    """Recorded sequences, one after the other and over again, cut to the length and the screen of ``spec``."""
    batch = padded_batch(spec, batch_size)
    with np.load(RECORDING) as recorded:
        for name in FIELDS:
            values = recorded[name][np.arange(batch_size) % len(recorded[name]), : spec.trace_length + 1]
            if name == "observations":
                height, width = spec.environment.observation_shape[1:]
                rows, columns = np.arange(height) * 84 // height, np.arange(width) * 84 // width
                values = values[:, :, :, rows][..., columns]
            setattr(batch, name, values.swapaxes(0, 1))
    batch.mask[:] = True
    batch.policy_index[:] = np.arange(batch_size) % num_policies
    return batch


def spec_of(agent: AgentConfig, length: int, screen: tuple[int, int] = (84, 84)) -> SequenceSpec:
    environment = EnvironmentSpec((1, *screen), "uint8", 255.0, 18)
    sequence = dataclasses.replace(agent.sequence, trace_length=length, replay_period=max(1, length // 2))
    return SequenceSpec.of(dataclasses.replace(agent, sequence=sequence), environment)
