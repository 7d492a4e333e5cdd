"""The family of policies: betas, discounts, the lanes' epsilons, epsilon-greedy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agent57.family import PolicyFamily, epsilon_greedy, lane_epsilons
from tests import oracles

SIZES = [1, 2, 3, 4, 8, 9, 10, 11, 16, 32, 64]


@pytest.mark.parametrize("num_policies", SIZES)
def test_betas_agree_with_the_oracle(num_policies: int) -> None:
    family = PolicyFamily(num_policies=num_policies, beta_max=0.7)
    assert isinstance(family.betas, np.ndarray)
    assert family.betas.shape == (num_policies,)
    np.testing.assert_allclose(family.betas, oracles.betas(num_policies, 0.7), rtol=1e-12)


@pytest.mark.parametrize("num_policies", SIZES)
@pytest.mark.parametrize("gammas", [(0.9999, 0.997, 0.99), (0.95, 0.93, 0.90), (0.99, 0.99, 0.99)])
def test_discounts_agree_with_the_oracle(num_policies: int, gammas: tuple[float, float, float]) -> None:
    gamma_max, gamma_mid, gamma_min = gammas
    family = PolicyFamily(num_policies, gamma_max=gamma_max, gamma_mid=gamma_mid, gamma_min=gamma_min)
    assert isinstance(family.discounts, np.ndarray)
    assert family.discounts.shape == (num_policies,)
    expected = oracles.discounts(num_policies, gamma_max, gamma_mid, gamma_min)
    np.testing.assert_allclose(family.discounts, expected, rtol=1e-12)


def test_defaults_are_the_papers() -> None:
    family = PolicyFamily()
    assert family.betas.shape == family.discounts.shape == (32,)
    assert family.betas[0] == 0
    assert family.betas[-1] == pytest.approx(0.3)
    assert family.discounts[0] == pytest.approx(0.9999, abs=1e-12)
    assert family.discounts[7] == pytest.approx(0.997, abs=1e-12)
    assert family.discounts[31] == pytest.approx(0.99, abs=1e-12)


@pytest.mark.parametrize("num_policies", SIZES)
def test_betas_rise_and_discounts_never_do(num_policies: int) -> None:
    """The formula printed in the paper rises over j = 1..6 and ends at 0.99997."""
    family = PolicyFamily(num_policies)
    assert (np.diff(family.betas) >= 0).all()
    assert (np.diff(family.discounts) <= 1e-15).all()
    assert family.discounts[0] == pytest.approx(0.9999, abs=1e-12)
    if num_policies > 1:
        assert family.discounts[-1] == pytest.approx(0.99, abs=1e-12)


def test_discounts_fall_strictly_where_the_printed_formula_rises() -> None:
    assert (np.diff(PolicyFamily(32).discounts[:8]) < 0).all()


def test_a_single_policy_is_exploitative() -> None:
    family = PolicyFamily(1)
    assert family.betas.tolist() == [0.0]
    assert family.discounts == pytest.approx([0.9999])


def test_lane_epsilons_are_the_ladder() -> None:
    epsilons = lane_epsilons(5, base=0.4, alpha=8.0)
    np.testing.assert_allclose(epsilons, [0.4**1, 0.4**3, 0.4**5, 0.4**7, 0.4**9], rtol=1e-12)


@pytest.mark.parametrize("num_lanes", [2, 16, 256])
def test_lane_epsilons_run_from_base_down_to_its_ninth_power(num_lanes: int) -> None:
    epsilons = lane_epsilons(num_lanes)
    assert len(epsilons) == num_lanes
    assert epsilons[0] == pytest.approx(0.4)
    assert epsilons[-1] == pytest.approx(0.4**9)
    assert (np.diff(epsilons) < 0).all()


def test_a_single_lane_gets_the_base() -> None:
    assert lane_epsilons(1, base=0.3) == pytest.approx([0.3])


@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.4, 1.0])
def test_epsilon_greedy_agrees_with_the_oracle(epsilon: float) -> None:
    # Rounded to tenths so that ties, which the first greedy action wins, are frequent.
    q = (torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0)) * 3).round() / 10
    probabilities = epsilon_greedy(q, epsilon)
    assert probabilities.shape == q.shape
    for t in range(6):
        for b in range(5):
            expected = oracles.epsilon_greedy(q[t, b].tolist(), epsilon)
            np.testing.assert_allclose(probabilities[t, b].tolist(), expected, atol=1e-6)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(6, 5))


def test_epsilon_may_differ_between_lanes() -> None:
    q = torch.randn(7, 4, generator=torch.Generator().manual_seed(1))
    epsilons = torch.from_numpy(lane_epsilons(7)).float()
    probabilities = epsilon_greedy(q, epsilons)
    for lane in range(7):
        expected = oracles.epsilon_greedy(q[lane].tolist(), float(epsilons[lane]))
        np.testing.assert_allclose(probabilities[lane].tolist(), expected, atol=1e-6)


def test_the_greedy_action_also_counts_its_random_draws() -> None:
    """mu of the greedy action is 1 - eps + eps / A, not 1 - eps."""
    probabilities = epsilon_greedy(torch.tensor([0.0, 2.0, 1.0, -1.0]), 0.4)
    np.testing.assert_allclose(probabilities.tolist(), [0.1, 0.7, 0.1, 0.1], atol=1e-6)


def test_a_tie_has_one_greedy_action() -> None:
    probabilities = epsilon_greedy(torch.zeros(2, 4), 0.2)
    np.testing.assert_allclose(probabilities.tolist(), [[0.85, 0.05, 0.05, 0.05]] * 2, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_probabilities_are_floats_whatever_the_q_values_are(dtype: torch.dtype) -> None:
    """`full_like` on an integer tensor turns epsilon / A into 0."""
    probabilities = epsilon_greedy(torch.tensor([3, 1, 2, 0], dtype=dtype), 0.4)
    assert probabilities.is_floating_point()
    np.testing.assert_allclose(probabilities.tolist(), [0.7, 0.1, 0.1, 0.1], atol=1e-6)


def test_probabilities_match_the_frequencies_of_acting() -> None:
    """Toss epsilon, then a uniform action or the greedy one: that is what mu describes."""
    rng, epsilon, draws = np.random.default_rng(0), 0.3, 40_000
    q = torch.tensor([0.1, -0.3, 0.7, 0.2, 0.0])
    is_random = rng.random(draws) < epsilon
    actions = np.where(is_random, rng.integers(5, size=draws), 2)
    frequencies = np.bincount(actions, minlength=5) / draws
    # Four standard errors of a frequency near one half are 0.01.
    np.testing.assert_allclose(epsilon_greedy(q, epsilon).numpy(), frequencies, atol=0.01)
