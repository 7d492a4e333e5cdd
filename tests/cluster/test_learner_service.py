"""The learner beside its supply: updates that overlap, as they do on a GPU, are the updates made one by one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from agent57.config import LossConfig
from cluster.run.messages import RolloutRequest, UpdateRequest
from cluster.runtime.services import LearnerService, LocalReplay, LocalWeights, RolloutService
from learner.updates import TrainingDiverged
from replay.prioritized import PrioritizedReplay, SampledSequences
from tests.cluster.tiny import tiny_config

CONFIG = tiny_config()


class Recorded(LocalReplay):
    """Notes new priorities and keeps the old ones, so that what is drawn does not depend on when they arrive."""

    def __init__(self, replay: PrioritizedReplay) -> None:
        super().__init__(replay)
        self.told: list[tuple[list[int], np.ndarray]] = []

    def update_priorities(self, sampled: SampledSequences, priorities: np.ndarray) -> None:
        self.told.append((sampled.slots.tolist(), priorities))


def made(ahead: int, count: int, config=CONFIG) -> tuple[LearnerService, Recorded, dict[str, float], LocalWeights]:
    """What ``count`` updates in one request did, with ``ahead`` of them at work while another is started."""
    replay, weights = Recorded(PrioritizedReplay(config.replay, config.seed)), LocalWeights()
    learner = LearnerService(config, serial=True)
    learner._ahead = ahead
    learner.publish(weights)
    worker = RolloutService(config, 0, 1, reproducible=True)
    arms = [[0, 1, 2]] * config.cluster.lanes_per_worker
    for _ in range(4):
        worker.rollout(RolloutRequest(60, arms, 0, replay, weights))
    reply = learner.update(UpdateRequest(count, replay, weights))
    assert reply.updates == count
    return learner, replay, reply.metrics, weights


def test_overlapping_updates_are_those_made_one_by_one() -> None:
    (one, told, metrics, _), (other, told_ahead, metrics_ahead, weights) = (made(ahead, 7) for ahead in (0, 1))
    np.testing.assert_array_equal(one.learner.weights(), other.learner.weights())
    assert len(told.told) == len(told_ahead.told) == 7
    for (slots, priorities), (slots_ahead, priorities_ahead) in zip(told.told, told_ahead.told, strict=True):
        assert slots == slots_ahead
        np.testing.assert_array_equal(priorities, priorities_ahead)
    timed = ("learner/fetch_seconds", "learner/update_seconds")
    assert {name: value for name, value in metrics.items() if name not in timed} == {
        name: value for name, value in metrics_ahead.items() if name not in timed
    }
    newest = weights.pull(-1)
    assert newest is not None
    assert newest[0] == 7


def test_the_last_of_overlapping_updates_is_finished_before_weights_are_published() -> None:
    learner, _, _, weights = made(1, 1)
    newest = weights.pull(-1)
    assert newest is not None
    assert newest[0] == 1
    np.testing.assert_array_equal(newest[1], learner.learner.weights())


@pytest.mark.parametrize("ahead", [0, 1])
def test_updates_that_stay_nan_end_in_an_error_either_way(ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(
        CONFIG,
        learner=dataclasses.replace(CONFIG.learner, max_bad_updates=3),
        loss=dataclasses.replace(LossConfig(), normalize_td=False),
    )
    learner, replay, _, weights = made(ahead, 2, config)
    told = len(replay.told)
    learner.learner.networks.scales.td[0] = np.nan
    with pytest.raises(TrainingDiverged, match="3 updates in a row"):
        learner.update(UpdateRequest(9, replay, weights))
    assert learner.learner.bad_updates == 3
    assert len(replay.told) == told, "priorities of skipped updates"
