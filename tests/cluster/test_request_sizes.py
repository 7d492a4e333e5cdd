"""How much requests ask for, and that nobody acts with old weights where updates come fast."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from cluster.commands.train import train
from cluster.run.presets import LAPTOP, PAPER, SMALL
from cluster.runtime.request_sizes import RequestSizes
from cluster.telemetry.metrics import read_metrics
from replay.rate_limiter import RateLimiter
from tests.cluster.tiny import tiny_config


def running(trained: int, updates: int) -> RateLimiter:
    limiter = RateLimiter(1.0, 100.0, min_sequences=1)
    limiter.note_sequences(1)
    limiter.record_trained(trained, updates)
    return limiter


def test_the_paper_fetches_weights_every_hundred_steps() -> None:
    sizes = RequestSizes(PAPER, num_workers=16)
    assert (sizes.steps(), sizes.updates) == (100, PAPER.cluster.updates_per_request)
    # 256 lanes: about two updates in between.
    per_request = 100 * 16 * 16 * PAPER.replay.replay_ratio / sizes.full_batch
    assert per_request == pytest.approx(2.0)


@pytest.mark.parametrize("config", [LAPTOP, SMALL])
@pytest.mark.parametrize("num_workers", [1, 3, 1000])
def test_a_request_takes_as_long_as_a_few_updates(num_workers: int, config: object) -> None:
    sizes = RequestSizes(config, num_workers)  # type: ignore[arg-type]
    lanes = num_workers * config.cluster.lanes_per_worker  # type: ignore[attr-defined]
    updates = sizes.steps() * lanes * config.replay.replay_ratio / sizes.full_batch  # type: ignore[attr-defined]
    assert updates <= 5 or sizes.steps() == 1
    assert sizes.updates <= 5


def test_short_sequences_mean_more_updates_and_shorter_requests() -> None:
    sizes = RequestSizes(SMALL, num_workers=1)
    full = running(trained=10 * sizes.full_batch, updates=10)
    short = running(trained=10 * sizes.full_batch // 4, updates=10)
    assert sizes.steps(full) == sizes.steps() == 12
    assert sizes.steps(short) == 3
    assert sizes.steps(running(0, 0)) == sizes.steps()


def test_the_lag_that_a_serial_run_reports_is_what_the_learner_did_in_between(tmp_path: Path) -> None:
    def lag_of(name: str, max_policy_lag: int) -> float:
        base = tiny_config()
        config = dataclasses.replace(
            base,
            actor=dataclasses.replace(base.actor, max_policy_lag=max_policy_lag, steps_per_request=100),
            run_dir=str(tmp_path / name),
            max_env_frames=6000,
        )
        assert train(config, "smoke", None) == 0
        values = read_metrics(tmp_path / name)["actor/policy_lag_updates"].values
        return float(np.mean(values[len(values) // 3 :]))

    assert 0.5 < lag_of("bounded", 2) <= 2.5
    assert lag_of("unbounded", 0) > 6
