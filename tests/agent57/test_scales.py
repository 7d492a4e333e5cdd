"""Scales of TD errors and intrinsic rewards: one for each network, or one for each network and policy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from agent57.scales import DECAY, FLOOR, RunningScales, Scales

STEPS, BATCH, POLICIES = 6, 9, 4


def batch(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(raw TD errors [2, T, B], intrinsic rewards [T, B], mask [T, B], policies [B]); policy 3 never comes."""
    rng = np.random.default_rng(seed)
    td = rng.normal(size=(2, STEPS, BATCH)) * np.array([1.0, 20.0])[:, None, None] + 0.5
    mask = torch.from_numpy(rng.random((STEPS, BATCH)) < 0.7)
    policies = torch.arange(BATCH) % 3
    return torch.from_numpy(td), torch.from_numpy(rng.uniform(0, 3, (STEPS, BATCH))), mask, policies


def oracle(samples: list[np.ndarray]) -> float:
    """Standard deviation from bias-corrected running moments of the batches, one after the other."""
    mean = square = weight = 0.0
    for values in samples:
        if len(values):
            mean = DECAY * mean + (1 - DECAY) * values.mean()
            square = DECAY * square + (1 - DECAY) * np.square(values).mean()
            weight = DECAY * weight + (1 - DECAY)
    return max(np.sqrt(square / weight - (mean / weight) ** 2), FLOOR) if weight else 1.0


@pytest.mark.parametrize("num_policies", [None, POLICIES])
def test_running_scales_agree_with_moments_written_out(num_policies: int | None) -> None:
    scales = Scales(num_policies).double()
    running = RunningScales(scales)
    running.moments = running.moments.double()
    seen: dict[tuple[int, ...], list[np.ndarray]] = {}
    rewards = []
    for seed in range(5):
        td, intrinsic, mask, policies = batch(seed)
        running.update(scales.errors(td, policies), intrinsic, mask, policies, (True, True), lambda sums: sums)
        rewards.append(intrinsic[mask].numpy())
        for net in (0, 1):
            if num_policies is None:
                seen.setdefault((net,), []).append(td[net][mask].numpy())
            for policy in range(num_policies or 0):
                own = mask & (policies == policy)
                seen.setdefault((net, policy), []).append(td[net][own].numpy())
    for place, samples in seen.items():
        assert float(scales.td[place]) == pytest.approx(oracle(samples), rel=1e-6), place
    assert float(scales.intrinsic) == pytest.approx(oracle(rewards), rel=1e-6)
    if num_policies is not None:
        assert scales.td[:, 3].tolist() == [1.0, 1.0], "a policy without a sample keeps its own"
        assert len(scales.td.unique()) == 2 * 3 + 1


def test_each_sequence_is_divided_by_its_policys_scale() -> None:
    scales = Scales(POLICIES)
    scales.td.copy_(torch.tensor([[1.0, 2.0, 4.0, 8.0], [0.5, 0.25, 1.0, 1.0]]))
    policies = torch.tensor([2, 0, 1])
    errors = scales.errors(torch.ones(2, 5, 3), policies)
    assert errors[0, 0].tolist() == [0.25, 1.0, 0.5]
    assert errors[1, 4].tolist() == [1.0, 2.0, 4.0]
    torch.testing.assert_close(scales.raw_errors(errors, policies), torch.ones(2, 5, 3))
    assert float(scales.of_network(0)) == 3.75


def test_a_restored_one_goes_on_and_what_is_not_wanted_stays() -> None:
    first, second = (RunningScales(Scales(POLICIES)) for _ in "ab")
    td, intrinsic, mask, policies = (each.float() if each.is_floating_point() else each for each in batch(1))
    first.update(td, intrinsic, mask, policies, (True, False), lambda sums: sums)
    assert float(first.scales.intrinsic) == 1.0
    second.load_state_dict(first.state_dict())
    second.scales.load_state_dict(first.scales.state_dict())
    for running in (first, second):
        running.update(td, intrinsic, mask, policies, (True, True), lambda sums: sums)
    assert torch.equal(first.scales.td, second.scales.td)
    assert float(first.scales.intrinsic) != 1.0
