"""Scales of TD errors and intrinsic rewards: one for each network, or one for each network and policy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from agent57.scales import DECAY, FLOOR, POLICY_FLOOR, RunningScales, Scales, std_of

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
        running.update(scales.summed(td, mask, policies, intrinsic), (True, True))
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
    sigma = scales.of_sequences(policies)
    assert sigma.shape == (2, 1, 3)
    assert sigma[:, 0].tolist() == [[4.0, 1.0, 2.0], [1.0, 0.5, 0.25]]
    assert float(scales.of_network(0)) == 3.75


def test_a_restored_one_goes_on_and_what_is_not_wanted_stays() -> None:
    first, second = (RunningScales(Scales(POLICIES)) for _ in "ab")
    td, intrinsic, mask, policies = (each.float() if each.is_floating_point() else each for each in batch(1))
    first.update(first.scales.summed(td, mask, policies, intrinsic), (True, False))
    assert float(first.scales.intrinsic) == 1.0
    second.load_state_dict(first.state_dict())
    second.scales.load_state_dict(first.scales.state_dict())
    for running in (first, second):
        running.update(running.scales.summed(td, mask, policies, intrinsic), (True, True))
    assert torch.equal(first.scales.td, second.scales.td)
    assert float(first.scales.intrinsic) != 1.0


def test_a_policys_scale_is_the_largest_of_running_batch_and_floor() -> None:
    """MEME section 4 B1, against standard deviations of lists of floats."""
    scales = Scales(POLICIES).double()
    running = RunningScales(scales)
    running.moments = running.moments.double()
    quiet, loud = batch(1), batch(2)
    for td, intrinsic, mask, policies in [quiet] * 3:
        running.update(scales.summed(td, mask, policies, intrinsic), (True, False))
    before = scales.td.clone()
    td, intrinsic, mask, policies = loud
    td = td.clone()
    td[:, :, policies == 1] *= 50  # a spike, which counts at once
    td[:, :, policies == 2] = 3.0  # no spread at all
    statistics = scales.summed(td, mask, policies, intrinsic)
    sigma = scales.of_sequences(policies, statistics)
    for b, policy in enumerate(policies.tolist()):
        for net in (0, 1):
            own = td[net][:, policies == policy][mask[:, policies == policy]].numpy()
            expected = max(float(before[net, policy]), float(own.std()), POLICY_FLOOR)
            assert float(sigma[net, 0, b]) == pytest.approx(expected, rel=1e-6)
    spiked = policies == 1
    assert (sigma[:, 0, spiked] > 10 * before[:, 1, None]).all()
    assert torch.equal(sigma[:, 0, policies == 2], before[:, [2]].expand(2, int((policies == 2).sum())))
    assert torch.equal(scales.td, before), "asking changes nothing"
    # Errors that never differ: the floor.
    still = Scales(POLICIES).double()
    of_still = RunningScales(still)
    of_still.moments = of_still.moments.double()
    of_still.update(still.summed(torch.full_like(td, 0.5), mask, policies, intrinsic), (True, False))
    assert still.td[:, :3].unique().tolist() == [POLICY_FLOOR]


def test_a_batch_with_a_nan_leaves_the_moments_of_all_policies_it_touches_alone() -> None:
    scales = Scales(POLICIES).double()
    running = RunningScales(scales)
    td, intrinsic, mask, policies = batch(1)
    running.moments = running.moments.double()
    running.update(scales.summed(td, mask, policies, intrinsic), (True, True))
    before = scales.td.clone()
    mask[:] = True
    td[0, 0, 1] = torch.nan  # of policy 1, of the extrinsic network
    running.update(scales.summed(td, mask, policies, intrinsic), (True, True))
    assert scales.td[0, 1] == before[0, 1]
    assert (scales.td[:, [0, 2]] != before[:, [0, 2]]).all()
    assert scales.td.isfinite().all()


def test_the_standard_deviation_of_nothing_is_zero() -> None:
    assert std_of(torch.zeros(2, 3)).tolist() == [0.0, 0.0]
