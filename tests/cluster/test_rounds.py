"""Rounds of evaluation in a run: each has one score, dated when it began, and training's moments of novelty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.config import EvaluationConfig
from actors.environments.door import EnvironmentRaised
from actors.evaluator import Evaluator
from cluster.commands.train import train
from cluster.run.messages import EvaluationReply, EvaluationRequest, RolloutReply, RolloutRequest
from cluster.runtime.services import EvaluatorService, LearnerService, LocalWeights, RolloutService
from cluster.telemetry.metrics import read_metrics
from tests.cluster.tiny import tiny_config

PERIOD = 400


def test_every_round_has_a_score_at_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose evaluator broke down: it is begun anew at once."""
    begun: list[int] = []
    evaluate = EvaluatorService.evaluate

    def breaking(self: EvaluatorService, request: EvaluationRequest) -> EvaluationReply:
        begun.append(request.begin)
        if sum(begun) == 3:
            raise EnvironmentRaised("the emulator tripped over a cable")
        return evaluate(self, request)

    monkeypatch.setattr(EvaluatorService, "evaluate", breaking)
    monkeypatch.setattr("cluster.runtime.recovery.BACKOFF_SECONDS", (0.0,))
    evaluation = EvaluationConfig(episodes=1, period_env_frames=PERIOD)
    config = tiny_config(run_dir=str(tmp_path), max_env_frames=4 * PERIOD + PERIOD // 2, evaluation=evaluation)
    assert train(config, "smoke", None) == 0
    assert sum(begun) == 5
    metrics = read_metrics(tmp_path)
    # Frames are handed out in requests of 4 lanes x 20 steps.
    late = metrics["evaluation/return"].env_frames - PERIOD * np.arange(1, 5)
    assert (late >= 0).all()
    assert (late < PERIOD / 2).all()
    assert np.isfinite(metrics["evaluation/return"].values).all()
    assert metrics["evaluation/return_episodes"].values.min() == 1


def test_a_round_begins_with_trainings_moments_of_novelty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`eval` does the same, so both play the same policy."""
    of_worker: list[dict[str, Any]] = []
    at_beginning: list[tuple[dict[str, Any], dict[str, Any]]] = []
    rollout, begin_with = RolloutService.rollout, Evaluator.begin_with

    def watched(self: RolloutService, request: RolloutRequest) -> RolloutReply:
        reply = rollout(self, request)
        of_worker.append(reply.running_state)
        return reply

    def beginning(self: Evaluator, arms: list[int]) -> None:
        begin_with(self, arms)
        at_beginning.append((of_worker[-2], self.lanes.running_state()))

    monkeypatch.setattr(RolloutService, "rollout", watched)
    monkeypatch.setattr(Evaluator, "begin_with", beginning)
    assert train(tiny_config(run_dir=str(tmp_path), max_env_frames=1200), "smoke", None) == 0
    assert len(at_beginning) >= 2
    for trainings, evaluators in at_beginning:
        # The reply that was the newest when the round was asked for.
        np.testing.assert_equal(evaluators["novelty"], trainings["novelty"])
        mean = np.mean(np.asarray(trainings["distance_sum"]) / np.asarray(trainings["distance_weight"]))
        np.testing.assert_allclose(evaluators["distance_sum"] / evaluators["distance_weight"], mean)


def test_what_counts_as_the_score_was_settled_when_the_round_began() -> None:
    config = tiny_config(env="tests.fakes:Noise-v0")
    weights = LocalWeights()
    LearnerService(config, serial=True).publish(weights)
    service = EvaluatorService(config, reproducible=True)
    for _ in range(8):
        reply = service.evaluate(EvaluationRequest(0, 1, True, 0, weights))
        chosen = reply.scored_arm
        assert not reply.round_over
        reply = service.evaluate(EvaluationRequest(10, 2, False, 0, weights))
        assert reply.round_over
        assert reply.scored_arm == chosen
        assert chosen in [episode.policy_index for episode in reply.episodes]
