"""What one real rollout worker sends, recorded once, for `benchmarks.simulated_fleet` to send again and again.

The worker plays the run's environment with networks of the run's size, so sequences, replies and the weight
vector have the sizes, and replies the number of metrics, that they have in training.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.rollout import RolloutWorker
from agent57.networks import flatten_weights
from agent57.structures import SequenceSpec
from cluster.run.config import TrainConfig
from learner.learner import Learner
from replay.codec import decode_batch, encode_sequence

RECORDED_LANES = 16
MIN_SEQUENCES = 16


@dataclass(frozen=True)
class RecordedTraffic:
    """Encoded sequences of full length with their ``priorities`` [n], and what else a worker and a learner report.

    ``encode_seconds`` is the processor time that encoding took per sequence; ``weight_count`` the float32 numbers
    of the vector that is published.
    """

    blobs: list[bytes]
    priorities: np.ndarray
    encode_seconds: float
    worker_metrics: dict[str, float]
    learner_metrics: dict[str, float]
    running_state: dict[str, Any]
    weight_count: int

    @property
    def blob_bytes(self) -> float:
        """Mean size of an encoded sequence."""
        return sum(map(len, self.blobs)) / len(self.blobs)


def record_traffic(config: TrainConfig) -> RecordedTraffic:
    """Play until MIN_SEQUENCES sequences of full length are recorded; about ten seconds with the paper's networks."""
    actor = dataclasses.replace(config.actor, epsilon_base=1.0, epsilon_alpha=0.0)
    worker = RolloutWorker(
        config.env, config.agent, actor, config.environment, 0, RECORDED_LANES, RECORDED_LANES, config.seed
    )
    # The learner's moments switch RND on; without them a worker skips it, and reports nothing of it.
    worker.lanes.networks.rnd.normalizer.count.fill_(1)
    blobs: list[bytes] = []
    priorities: list[float] = []
    encoding = 0.0
    steps = config.sequence.trace_length + 1
    while len(blobs) < MIN_SEQUENCES:
        rollout = worker.rollout(steps, [[0] for _ in range(RECORDED_LANES)])
        steps = config.sequence.replay_period
        for sequence, priority in zip(rollout.sequences, rollout.priorities, strict=True):
            if sequence.num_transitions == config.sequence.trace_length:
                start = time.thread_time()
                blobs.append(encode_sequence(sequence))
                encoding += time.thread_time() - start
                priorities.append(float(priority))
    timings = ("pull_seconds", "encode_seconds", "deliver_seconds", "steps_per_second")
    spec = SequenceSpec.of(config.agent, worker.spec)
    return RecordedTraffic(
        blobs=blobs,
        priorities=np.array(priorities, np.float32),
        encode_seconds=encoding / len(blobs),
        worker_metrics=rollout.metrics | {f"actor/{name}": 0.0 for name in timings} | {"replay/initial_priority": 1.0},
        learner_metrics=_learner_metrics(config, blobs[:1], spec),
        running_state=worker.lanes.running_state(),
        weight_count=flatten_weights(worker.lanes.networks).size,
    )


def _learner_metrics(config: TrainConfig, blobs: list[bytes], spec: SequenceSpec) -> dict[str, float]:
    """What a real update reports, from one on a single sequence."""
    learner = Learner(config.agent, config.learner, spec.environment, config.seed)
    offsets = np.cumsum([0, *map(len, blobs)], dtype=np.int64)
    return learner.update(decode_batch(np.frombuffer(b"".join(blobs), np.uint8), offsets, spec)).metrics
