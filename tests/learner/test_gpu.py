"""The learner on a GPU: the updates of the CPU to float tolerance, plain and recorded; nothing waits."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from learner.graph import WARM_UP, CapturedStep
from learner.learner import Learner
from tests.learner.test_learner import make_batch
from tests.learner.test_no_waiting import CASES, learner_of

pytestmark = pytest.mark.gpu


def on_gpu(case: str, compile: str) -> Learner:
    """A learner on the GPU with the weights that `learner_of` has on the CPU."""
    cpu = learner_of(case)
    config = dataclasses.replace(cpu.config, device="cuda", compile=compile)
    learner = Learner(cpu.agent, config, CASES[case][0], 0)
    learner.load_state_dict(copy.deepcopy(cpu.state_dict()))
    return learner


@pytest.mark.parametrize("case", [case for case in CASES if case != "NFNet"])
@pytest.mark.parametrize("compile", ["off", "auto"])
def test_updates_are_those_of_the_cpu(case: str, compile: str) -> None:
    """NFNet's draws are a device's own."""
    cpu, gpu = learner_of(case), on_gpu(case, compile)
    for seed in range(WARM_UP + 3):
        batch = make_batch(seed, CASES[case][0])
        weights = np.linspace(0.5, 1.0, len(batch.policy_index))
        one, other = cpu.update(batch, weights), gpu.update(batch.pinned(), weights)
        assert other.priorities is not None
        np.testing.assert_allclose(other.priorities, one.priorities, rtol=2e-3, atol=1e-4)
        for name, value in one.metrics.items():
            assert other.metrics[name] == pytest.approx(value, rel=5e-3, abs=1e-3), name
    if compile == "auto":
        assert isinstance(gpu._step, CapturedStep)
        assert gpu._step._graph is not None, "not recorded"
    np.testing.assert_allclose(gpu.weights(), cpu.weights(), rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("case", CASES)
def test_recorded_updates_are_the_plain_ones(case: str) -> None:
    plain, recorded = on_gpu(case, "off"), on_gpu(case, "auto")
    for seed in range(WARM_UP + 5):
        batch = make_batch(seed, CASES[case][0])
        one, other = plain.update(batch), recorded.update(batch)
        for name, value in one.metrics.items():
            assert other.metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_a_recorded_update_skips_a_nan_too() -> None:
    learner = on_gpu("vectors", "auto")
    for seed in range(WARM_UP + 2):
        learner.update(make_batch(seed))
    before = learner.weights()
    broken = make_batch(9)
    broken.extrinsic_rewards[2, 0] = np.nan
    assert learner.update(broken).priorities is None
    np.testing.assert_array_equal(learner.weights(), before)
    assert learner.update(make_batch(10)).priorities is not None


def test_starting_an_update_waits_for_nothing() -> None:
    learner = on_gpu("images", "off")
    batch = make_batch(0, CASES["images"][0]).pinned()
    weights = np.ones(len(batch.policy_index))
    learner.update(batch, weights)
    torch.cuda.set_sync_debug_mode("error")
    try:
        started = learner.start(batch, weights)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert learner.finish(started).priorities is not None
