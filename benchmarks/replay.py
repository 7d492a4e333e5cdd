"""Replay of one million real Pong steps: bytes, and insert and sample rates on one core.

    python -m benchmarks.replay [--steps 1000000] [--json]

Sequences of 160 steps, overlapping by 80, from a random policy. ``--fresh-steps`` of them are really played;
the rest are the same blobs inserted again (each insert stores its own copy).
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from actors.environments import EnvironmentConfig
from actors.rollout import ActorConfig, RolloutWorker
from agent57.config import AgentConfig
from agent57.structures import SequenceSpec
from benchmarks.measure import Figure, median_seconds, report
from replay.codec import decode_batch, encode_sequence
from replay.prioritized import PrioritizedReplay, ReplayConfig

BATCH = 64


def play(steps: int) -> tuple[list[bytes], np.ndarray, SequenceSpec, float]:
    """(encoded sequences, new steps of each, their spec, seconds spent encoding) of about ``steps`` steps."""
    agent = AgentConfig()
    actor = ActorConfig(epsilon_base=1.0, epsilon_alpha=0.0, torso_dtype="bfloat16")
    worker = RolloutWorker("ALE/Pong-v5", agent, actor, EnvironmentConfig(), 0, 32, 32, seed=0)
    blobs: list[bytes] = []
    new_steps: list[int] = []
    encoding = 0.0
    while sum(new_steps) < steps:
        rollout = worker.rollout(100, [[] for _ in range(32)])
        start = time.perf_counter()
        blobs += [encode_sequence(sequence) for sequence in rollout.sequences]
        encoding += time.perf_counter() - start
        new_steps += rollout.new_steps.tolist()
    spec = SequenceSpec(worker.spec, agent.sequence.trace_length, agent.network.lstm_size)
    return blobs, np.array(new_steps), spec, encoding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--fresh-steps", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    blobs, new_steps, spec, encoding = play(min(options.fresh_steps, options.steps))
    replay = PrioritizedReplay(ReplayConfig(capacity_steps=10 * options.steps, max_gb=100.0), seed=0)
    rng = np.random.default_rng(0)
    start, inserted = time.perf_counter(), 0
    while replay.num_steps < options.steps:
        replay.add(blobs, rng.uniform(0.1, 10, len(blobs)), new_steps)
        inserted += len(blobs)
    insert_seconds = time.perf_counter() - start
    sample_seconds = median_seconds(lambda: replay.sample(BATCH), options.repeats)
    sampled = replay.sample(BATCH)
    decode_seconds = median_seconds(lambda: decode_batch(sampled.blob, sampled.offsets, spec), options.repeats)
    steps, frame = replay.num_steps, int(np.prod(spec.environment.observation_shape))
    million = replay.num_bytes / steps * 1e6 / 1e9
    figures = [
        Figure("replay of 1 000 000 Pong steps", million, "GB", 1.0, million / 1.0, "<= 1.0"),
        Figure("bytes per stored step", replay.num_bytes / steps, "bytes", frame, replay.num_bytes / steps / frame),
        Figure("encode, one core", len(blobs) / encoding, "sequences/s"),
        Figure("insert encoded, one core", inserted / insert_seconds, "sequences/s"),
        Figure(f"sample {BATCH} compressed, one core", 1 / sample_seconds, "batches/s"),
        Figure(f"decompress {BATCH}, one core", BATCH * (spec.trace_length + 1) * frame / decode_seconds / 1e9, "GB/s"),
    ]
    report(figures, options.json)


if __name__ == "__main__":
    main()
