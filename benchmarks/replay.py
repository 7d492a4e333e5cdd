"""One replay shard with real Pong sequences: bytes, inserting and sampling at once, and what reaches the learner.

    python -m benchmarks.replay [--steps 1000000] [--rivals runs/rivals] [--json]

Sequences of 160 steps, overlapping by 80, from a random policy. ``--fresh-steps`` of them are really played;
the rest are the same blobs inserted again (each insert stores its own copy). With ``--rivals FOLDER`` three other
replays are given the same sequences, in environments of their own (`benchmarks.rivals` makes them).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import zstandard

from actors.config import ActorConfig
from actors.environments.contract import EnvironmentConfig
from actors.rollout import RolloutWorker
from agent57.config import AgentConfig
from agent57.structures import SequenceSpec
from benchmarks.measure import Figure, against, alternating_medians, report
from benchmarks.rivals import RIVALS, rival_figures
from cluster.plan.freed_memory import keep_freed_memory
from replay.codec import decode_batch, decode_sequence, encode_sequence
from replay.config import ReplayConfig
from replay.prioritized import PrioritizedReplay

BATCH = 64
INSERTS_PER_SECOND, BATCHES_PER_SECOND = 2500, 100
"""What a shard is asked to do at once."""
LANES = 32


def play(steps: int) -> tuple[list[bytes], np.ndarray, SequenceSpec, float]:
    """(encoded sequences, new steps of each, their spec, seconds spent encoding) of about ``steps`` steps."""
    agent = AgentConfig()
    actor = ActorConfig(epsilon_base=1.0, epsilon_alpha=0.0, torso_dtype="auto")
    worker = RolloutWorker("ALE/Pong-v5", agent, actor, EnvironmentConfig(), 0, LANES, LANES, seed=0)
    blobs: list[bytes] = []
    new_steps: list[int] = []
    encoding = 0.0
    while sum(new_steps) < steps:
        rollout = worker.rollout(100, [[] for _ in range(LANES)])
        start = time.perf_counter()
        blobs += [encode_sequence(sequence) for sequence in rollout.sequences]
        encoding += time.perf_counter() - start
        new_steps += rollout.new_steps.tolist()
    spec = SequenceSpec.of(agent, worker.spec)
    return blobs, np.array(new_steps), spec, encoding


def both_at_once(
    replay: PrioritizedReplay, blobs: list[bytes], new_steps: np.ndarray, repeats: int
) -> tuple[float, float]:
    """(batches per second out of a full shard that takes 25 sequences in with each of them, the same of a bare list).

    The list keeps a copy of what comes in and copies what goes out; it knows neither priorities nor limits.
    """
    rng = np.random.default_rng(0)
    share = INSERTS_PER_SECOND // BATCHES_PER_SECOND
    stored = list(blobs)

    def replayed() -> None:
        chosen = rng.integers(len(blobs), size=share)
        replay.add([blobs[i] for i in chosen], rng.uniform(0.1, 10, share), new_steps[chosen])
        sampled = replay.sample(BATCH)
        replay.update_priorities(sampled.slots, sampled.keys, rng.uniform(0.1, 10, BATCH))

    def listed() -> None:
        for i in rng.integers(len(blobs), size=share):
            stored[i] = bytes(bytearray(blobs[i]))
        b"".join([stored[i] for i in rng.integers(len(blobs), size=BATCH)])

    replayed_seconds, listed_seconds = alternating_medians([replayed, listed], 20 * repeats, time.process_time)
    return 1 / replayed_seconds, 1 / listed_seconds


def measure(steps: int, fresh_steps: int, repeats: int, rivals: Path | None) -> list[Figure]:
    """All rows; ``rivals`` is the folder with their environments, or None."""
    blobs, new_steps, spec, encoding = play(min(fresh_steps, steps))
    replay = PrioritizedReplay(ReplayConfig(capacity_steps=steps, max_gb=100.0), seed=0)
    rng = np.random.default_rng(0)
    while replay.total_added_steps < steps:
        replay.add(blobs, rng.uniform(0.1, 10, len(blobs)), new_steps)
    frame = int(np.prod(spec.environment.observation_shape))
    frames = np.ones((spec.trace_length + 1, BATCH, frame), np.uint8)
    elsewhere = np.empty_like(frames)

    def deliver() -> None:
        sampled = replay.sample(BATCH)
        decode_batch(sampled.blob, sampled.offsets, spec)

    packed = [zstandard.compress(decode_sequence(blob, spec).observations.data, 1) for blob in blobs[:BATCH]]

    def unpack() -> None:
        for each in packed:
            zstandard.decompress(each)

    calls = [lambda: np.copyto(elsewhere, frames), unpack, deliver]
    copy, bare, out = alternating_medians(calls, repeats, time.process_time)
    unpacked = sum(zstandard.get_frame_parameters(each).content_size for each in packed)
    stored = replay.num_bytes / replay.num_steps
    rate, bare_rate = both_at_once(replay, blobs, new_steps, repeats)
    at_once = (
        f"batches of {BATCH} out, beside {INSERTS_PER_SECOND // BATCHES_PER_SECOND} sequences in for each, one core"
    )
    speed = frames.nbytes / out / 1e9
    rows = [
        against("replay, bytes per stored step", stored, "bytes", frame, f"<= {1 / 30:.4f}"),
        against(f"replay, {at_once}", rate, "batches/s", BATCHES_PER_SECOND, ">= 1", comparable=False),
        against("replay, the same against a bare list", rate, "batches/s", bare_rate),
        against(
            "replay, sampled and decompressed, one core", speed, "GB/s", frames.nbytes / copy / 1e9, comparable=False
        ),
        against("replay, the same against zstd alone", speed, "GB/s", unpacked / bare / 1e9),
        Figure("replay, encoding, one core", len(blobs) / encoding, "sequences/s"),
    ]
    if rivals is None:
        why = "needs 'python -m benchmarks.replay --rivals FOLDER'"
        return rows + [Figure(f"replay, of {name}'s speed", None, "GB/s", target=">= 1", where=why) for name in RIVALS]
    sequences = [decode_sequence(blob, spec) for blob in blobs]
    whole = [each for each in sequences if each.num_transitions == spec.trace_length]
    return rows + rival_figures(rivals, whole, speed, BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--fresh-steps", type=int, default=25_000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rivals", type=Path, help="folder with (or for) the environments of other replays")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    report(measure(options.steps, options.fresh_steps, options.repeats, options.rivals), options.json)


if __name__ == "__main__":
    main()
