"""Retrace and the two Q(lambda) against sums written from the papers, and the off-by-one mistakes they invite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agent57.traces import Acted, Trace, targets
from tests import oracles

RETRACE_ARRAYS = ("q", "target_policy", "actions", "behaviour_probs", "rewards", "discounts", "mask")
WATKINS_ARRAYS = ("q", "target_policy", "actions", "rewards", "discounts", "mask")
PENG_ARRAYS = ("q", "target_policy", "rewards", "discounts", "mask")


def random_arrays(seed: int, length: int, batch: int, num_actions: int = 3) -> dict[str, Tensor]:
    """A random batch; columns cycle through: whole, terminal then padding, truncated then padding, a terminal
    end and then another episode, a truncated end and then another episode, no valid transition at all."""
    rng = np.random.default_rng(seed)
    steps = (length + 1, batch)
    target_policy = rng.dirichlet(np.full(num_actions, 0.5), size=steps)
    actions = rng.integers(num_actions, size=steps)
    behaviour_probs = rng.uniform(0.05, 1.0, size=steps)
    discounts = np.broadcast_to(rng.uniform(0.8, 0.999, size=batch), steps).copy()
    mask = np.ones((length, batch))
    for b in range(batch):
        end = int(rng.integers(1, length + 1))
        match b % 6:
            case 1:
                discounts[end, b], mask[end:, b] = 0.0, 0
            case 2:
                mask[end:, b] = 0
            case 3:
                discounts[end, b] = 0.0
                mask[end : end + 1, b] = 0
            case 4:
                mask[end : end + 1, b] = 0
            case 5:
                mask[:, b] = 0
    arrays = {
        "q": rng.normal(size=(*steps, num_actions)) * 5,
        "target_policy": target_policy,
        "actions": actions,
        "behaviour_probs": behaviour_probs,
        "rewards": rng.normal(size=steps) * 2,
        "discounts": discounts,
        "mask": mask,
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def retrace(arrays: dict[str, Tensor], lambda_: float = 0.95, eps: float | None = None) -> Tensor:
    return targets(Trace.retrace, **arrays, lambda_=lambda_, eps=eps)


def peng(arrays: dict[str, Tensor], lambda_: float = 0.95, eps: float | None = None) -> Tensor:
    return targets(Trace.peng, **arrays, lambda_=lambda_, eps=eps)


def soft_watkins(
    arrays: dict[str, Tensor], lambda_: float = 0.95, eps: float | None = None, kappa: float = 0.01, **more: Tensor
) -> Tensor:
    return targets(Trace.soft_watkins, **arrays, **more, lambda_=lambda_, eps=eps, kappa=kappa)


def as_lists(arrays: dict[str, Tensor], names: tuple[str, ...]) -> dict[str, Any]:
    return {("target_q" if name == "q" else name): arrays[name].tolist() for name in names}


def assert_valid_rows_equal(targets: Tensor, expected: Any, mask: Tensor, rtol: float, atol: float) -> None:
    """Equal wherever mask is 1, and finite everywhere (a NaN times a mask of 0 is still a NaN in the loss)."""
    assert targets.shape == mask.shape
    assert torch.isfinite(targets).all()
    valid = mask.bool()
    np.testing.assert_allclose(targets[valid].numpy(), np.asarray(expected)[valid.numpy()], rtol=rtol, atol=atol)


def one_episode(rewards: list[float], gamma: float, terminated: bool, bootstrap: float = 0.0) -> dict[str, Tensor]:
    """One column, two actions, action 0 always played and wanted, Q = 0 but for ``bootstrap`` at the last step."""
    length = len(rewards)
    discounts = torch.full((length + 1, 1), gamma, dtype=torch.float64)
    if terminated:
        discounts[-1] = 0.0
    target_q = torch.zeros(length + 1, 1, 2, dtype=torch.float64)
    target_q[-1, 0, 0] = bootstrap
    target_policy = torch.zeros(length + 1, 1, 2, dtype=torch.float64)
    target_policy[..., 0] = 1.0
    return {
        "q": target_q,
        "target_policy": target_policy,
        "actions": torch.zeros(length + 1, 1, dtype=torch.int64),
        "behaviour_probs": torch.ones(length + 1, 1, dtype=torch.float64),
        "rewards": torch.tensor([0.0, *rewards], dtype=torch.float64)[:, None],
        "discounts": discounts,
        "mask": torch.ones(length, 1, dtype=torch.float64),
    }


# --- Agreement with the oracles ----------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [None, 1e-3])
@pytest.mark.parametrize("lambda_", [0.0, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_retrace_agrees_with_the_oracle(length: int, lambda_: float, eps: float | None) -> None:
    for seed in range(4):
        arrays = random_arrays(seed, length, batch=12)
        lists = as_lists(arrays, RETRACE_ARRAYS)
        expected = [
            [oracles.retrace_target(t, b, **lists, lambda_=lambda_, eps=eps) for b in range(12)] for t in range(length)
        ]
        assert_valid_rows_equal(retrace(arrays, lambda_, eps), expected, arrays["mask"], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("eps", [None, 1e-3])
@pytest.mark.parametrize("lambda_", [0.0, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_peng_agrees_with_the_oracle(length: int, lambda_: float, eps: float | None) -> None:
    for seed in range(4):
        arrays = random_arrays(seed, length, batch=12)
        lists = as_lists(arrays, PENG_ARRAYS)
        expected = [
            [oracles.peng_target(t, b, **lists, lambda_=lambda_, eps=eps) for b in range(12)] for t in range(length)
        ]
        assert_valid_rows_equal(peng(arrays, lambda_, eps), expected, arrays["mask"], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kappa", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("eps", [None, 1e-3])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_soft_watkins_agrees_with_the_oracle(length: int, eps: float | None, kappa: float) -> None:
    for seed in range(4):
        arrays = random_arrays(seed, length, batch=12)
        compare_q = random_arrays(seed + 50, length, batch=12)["q"]
        lists = as_lists(arrays, WATKINS_ARRAYS)
        for more in ({}, {"compare_q": compare_q}):
            given = {name: array.tolist() for name, array in more.items()}
            expected = [
                [
                    oracles.soft_watkins_target(t, b, **lists, **given, lambda_=0.9, kappa=kappa, eps=eps)
                    for b in range(12)
                ]
                for t in range(length)
            ]
            fast = soft_watkins(arrays, 0.9, eps, kappa, **more)
            assert_valid_rows_equal(fast, expected, arrays["mask"], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("function", [retrace, peng, soft_watkins])
def test_float32_and_a_boolean_mask_give_the_same_targets(function: Any) -> None:
    exact = random_arrays(0, 30, batch=12)
    single = {name: array.float() if array.is_floating_point() else array for name, array in exact.items()}
    single["mask"] = exact["mask"].bool()
    targets = function(single, eps=1e-3)
    assert targets.dtype == torch.float32
    expected = function(exact, eps=1e-3).numpy()
    assert_valid_rows_equal(targets, expected, exact["mask"], rtol=1e-3, atol=1e-3)


def test_trace_coefficients_agree_with_their_definition() -> None:
    arrays = random_arrays(3, 6, batch=5)
    names = ("q", "target_policy", "actions", "behaviour_probs")
    acted = Acted(**{name: arrays[name] for name in names}, lambda_=0.9, kappa=0.3)
    coefficients, soft = Trace.retrace.value.coefficients(acted), Trace.soft_watkins.value.coefficients(acted)
    assert torch.equal(Trace.peng.value.coefficients(acted), torch.full((7, 5), 0.9, dtype=torch.float64))
    assert coefficients.shape == (7, 5)
    for t in range(7):
        for b in range(5):
            pi = arrays["target_policy"][t, b, arrays["actions"][t, b]].item()
            ratio = pi / arrays["behaviour_probs"][t, b].item()
            expected = oracles.soft_watkins_coefficient(
                arrays["q"][t, b], arrays["target_policy"][t, b], int(arrays["actions"][t, b]), 0.9, 0.3
            )
            assert soft[t, b].item() == pytest.approx(expected, rel=1e-12)
            assert coefficients[t, b].item() == pytest.approx(0.9 * min(1.0, ratio), rel=1e-12)


def test_small_behaviour_probabilities_stay_fractions() -> None:
    """mu truncated to an integer would be 0, and every trace coefficient lambda."""
    acted = Acted(
        q=torch.zeros(2, 1, 4),
        kappa=0.01,
        target_policy=torch.tensor([[[0.0025, 0.9925, 0.0025, 0.0025]]] * 2),
        actions=torch.zeros(2, 1, dtype=torch.int64),
        behaviour_probs=torch.full((2, 1), 0.1),
        lambda_=0.95,
    )
    coefficients = Trace.retrace.value.coefficients(acted)
    assert coefficients.is_floating_point()
    np.testing.assert_allclose(coefficients.tolist(), [[0.95 * 0.025]] * 2, rtol=1e-6)


# --- Identities --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [retrace, peng, soft_watkins])
def test_lambda_zero_is_one_step_expected_sarsa(function: Any) -> None:
    """The value looked up is that of x_{t+1}, not of x_t."""
    arrays = random_arrays(5, 8, batch=12)
    expected_q = (arrays["target_policy"] * arrays["q"]).sum(-1)
    one_step = arrays["rewards"][1:] + arrays["discounts"][1:] * expected_q[1:]
    assert_valid_rows_equal(function(arrays, lambda_=0.0), one_step.numpy(), arrays["mask"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("function", [retrace, peng, soft_watkins])
@pytest.mark.parametrize("terminated", [True, False])
def test_lambda_one_on_policy_is_the_n_step_return(function: Any, terminated: bool) -> None:
    arrays = one_episode([1.0, 2.0, 4.0], gamma=0.5, terminated=terminated, bootstrap=16.0)
    last = 0.0 if terminated else 0.5 * 16.0
    expected = [[1 + 0.5 * (2 + 0.5 * (4 + last))], [2 + 0.5 * (4 + last)], [4 + last]]
    np.testing.assert_allclose(function(arrays, lambda_=1.0).tolist(), expected, rtol=1e-12)


@pytest.mark.parametrize("function", [retrace, peng, soft_watkins])
def test_true_values_are_a_fixed_point(function: Any) -> None:
    """Q equal to the return everywhere: every TD error is 0, whatever lambda is."""
    arrays = one_episode([1.0, 2.0, 4.0], gamma=0.5, terminated=True)
    arrays["q"][:3, 0, 0] = torch.tensor([3.0, 4.0, 4.0], dtype=torch.float64)
    for lambda_ in (0.0, 0.5, 1.0):
        np.testing.assert_allclose(function(arrays, lambda_)[:, 0].tolist(), [3.0, 4.0, 4.0], rtol=1e-12)


@pytest.mark.parametrize("function", [retrace, peng, soft_watkins])
def test_a_reward_n_steps_away_is_discounted_n_minus_one_times(function: Any) -> None:
    """Discounts applied twice inside the recursion would give gamma^4."""
    arrays = one_episode([0.0, 0.0, 1.0], gamma=0.9, terminated=True)
    np.testing.assert_allclose(function(arrays, lambda_=1.0)[:, 0].tolist(), [0.81, 0.9, 1.0], rtol=1e-12)


def test_retrace_hand_computed_with_two_corrections() -> None:
    """lambda 0.5; pi/mu = 0.8 / 0.4, cut to 1, at step 1; 0.8 / 1 at step 2."""
    arrays = one_episode([1.0, 10.0, 100.0], gamma=0.5, terminated=True)
    arrays["target_policy"][..., 0], arrays["target_policy"][..., 1] = 0.8, 0.2
    arrays["behaviour_probs"][:, 0] = torch.tensor([0.1, 0.4, 1.0, 1.0], dtype=torch.float64)
    expected = [1 + 0.5 * 0.5 * 10 + (0.5 * 0.5) * (0.5 * 0.5 * 0.8) * 100, 10 + 0.5 * 0.5 * 0.8 * 100, 100]
    np.testing.assert_allclose(retrace(arrays, lambda_=0.5)[:, 0].tolist(), expected, rtol=1e-12)


@pytest.mark.parametrize("eps", [None, 1e-3])
def test_a_large_tolerance_is_pengs_and_none_with_a_greedy_policy_is_watkins(eps: float | None) -> None:
    arrays = random_arrays(4, 7, batch=12)
    assert_valid_rows_equal(
        soft_watkins(arrays, eps=eps, kappa=1e9), peng(arrays, eps=eps).numpy(), arrays["mask"], rtol=1e-12, atol=0
    )
    greedy = arrays["q"].argmax(-1)
    arrays["target_policy"] = torch.nn.functional.one_hot(greedy, 3).double()
    # Watkins: the trace is whole as long as greedy actions follow, and 0 from the first other one on.
    arrays["behaviour_probs"] = torch.where(arrays["actions"] == greedy, 1.0, torch.inf).double()
    expected = retrace(arrays, eps=eps)
    assert_valid_rows_equal(
        soft_watkins(arrays, eps=eps, kappa=0.0), expected.numpy(), arrays["mask"], rtol=1e-9, atol=1e-12
    )


def test_soft_watkins_hand_computed() -> None:
    """lambda 0.5, pi' (0.8, 0.2), action 0 taken, Q (1, q): whole while q <= 1 / (1 - kappa), times 0.8 beyond."""
    for other, kept in ((1.0, 1.0), (1.005, 1.0), (1.02, 0.8), (-3.0, 1.0)):
        arrays = one_episode([1.0, 10.0], gamma=0.5, terminated=True)
        arrays["q"][1, 0] = torch.tensor([1.0, other], dtype=torch.float64)
        arrays["target_policy"][..., 0], arrays["target_policy"][..., 1] = 0.8, 0.2
        value, trace = 0.8 + 0.2 * other, 0.5 * kept
        expected = 1 + 0.5 * ((1 - trace) * value + trace * 10)
        np.testing.assert_allclose(soft_watkins(arrays, lambda_=0.5)[0, 0].item(), expected, rtol=1e-12)


def test_soft_watkins_asks_for_no_behaviour_probabilities_and_for_no_scale_of_the_values() -> None:
    arrays = random_arrays(2, 7, batch=12)
    before = soft_watkins(arrays)
    changed = arrays | {"behaviour_probs": torch.full_like(arrays["behaviour_probs"], torch.nan)}
    assert torch.equal(soft_watkins(changed), before)
    names = ("q", "target_policy", "actions", "behaviour_probs")
    acted = Acted(**{name: arrays[name] for name in names}, lambda_=0.9, kappa=0.1)
    larger = Acted(**{name: arrays[name] for name in names} | {"q": 7 * arrays["q"]}, lambda_=0.9, kappa=0.1)
    of = Trace.soft_watkins.value.coefficients
    assert torch.equal(of(acted), of(larger))


def test_an_action_that_equals_the_greedy_one_counts_as_greedy() -> None:
    arrays = one_episode([1.0, 100.0], gamma=0.5, terminated=True)
    arrays["actions"][1] = 1
    for kappa in (0.0, 0.01):
        np.testing.assert_allclose(soft_watkins(arrays, lambda_=1.0, kappa=kappa)[:, 0].tolist(), [51.0, 100.0])


# --- Ends of episodes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [retrace, peng, soft_watkins])
def test_termination_does_not_bootstrap_and_truncation_does(function: Any) -> None:
    for lambda_ in (0.0, 0.95, 1.0):
        ended = function(one_episode([1.0], gamma=0.5, terminated=True, bootstrap=8.0), lambda_)
        cut = function(one_episode([1.0], gamma=0.5, terminated=False, bootstrap=8.0), lambda_)
        assert ended.item() == pytest.approx(1.0)
        assert cut.item() == pytest.approx(5.0)


@pytest.mark.parametrize("function", [retrace, peng, soft_watkins])
@pytest.mark.parametrize("terminated", [True, False])
def test_nothing_leaks_over_an_episodes_end(function: Any, terminated: bool) -> None:
    """The episode ends at x_3 and another begins at x_4: changing all of that one changes nothing before it."""
    arrays = random_arrays(6, 7, batch=1)
    arrays["mask"][3] = 0
    if terminated:
        arrays["discounts"][3] = 0.0
    before = function(arrays, eps=1e-3)
    changed = {name: array.clone() for name, array in arrays.items()}
    changed["q"][4:] += 100.0
    changed["rewards"][4:] += 1000.0
    changed["discounts"][4:] = 0.5
    changed["behaviour_probs"][4:] = 0.01
    after = function(changed, eps=1e-3)
    torch.testing.assert_close(after[:3], before[:3], rtol=0, atol=0)
    assert not torch.allclose(after[4:], before[4:])


@pytest.mark.parametrize("function", [retrace, peng, soft_watkins])
def test_padding_does_not_matter(function: Any) -> None:
    """A sequence of 3 transitions padded to 7 has the targets of the sequence alone."""
    whole = random_arrays(12, 3, batch=1)
    padded = random_arrays(13, 7, batch=1)
    for name, array in whole.items():
        padded[name][: len(array)] = array
    padded["mask"][3:] = 0
    padded["behaviour_probs"][4:] = 1.0
    padded["q"][4:] = 1e6
    torch.testing.assert_close(function(padded, eps=1e-3)[:3], function(whole, eps=1e-3))


@pytest.mark.parametrize("function", [retrace, peng, soft_watkins])
def test_rows_that_the_convention_leaves_unused_are_not_used(function: Any) -> None:
    arrays = random_arrays(8, 5, batch=6)
    arrays["mask"][:] = 1
    expected = function(arrays, eps=1e-3)
    arrays["rewards"][0] = 1e9
    arrays["discounts"][0] = 1e9
    arrays["actions"][-1] = (arrays["actions"][-1] + 1) % 3
    for last_probability in (1e-9, 0.0, 1.0):
        arrays["behaviour_probs"][-1] = last_probability
        torch.testing.assert_close(function(arrays, eps=1e-3), expected, rtol=0, atol=0)


def test_an_unset_last_probability_under_a_greedy_policy_is_harmless() -> None:
    """pi / mu is 0 / 0 at the last step, whose action was never taken."""
    arrays = one_episode([1.0, 2.0], gamma=0.5, terminated=False, bootstrap=4.0)
    arrays["actions"][-1], arrays["behaviour_probs"][-1] = 1, 0.0
    np.testing.assert_allclose(retrace(arrays, lambda_=1.0)[:, 0].tolist(), [1 + 0.5 * (2 + 0.5 * 4), 2 + 0.5 * 4])


def test_the_first_actions_probability_corrects_nothing() -> None:
    """The sum's product starts at i = t + 1: mu_t belongs to the targets before t."""
    arrays = random_arrays(9, 4, batch=1)
    arrays["mask"][:] = 1
    before = retrace(arrays)
    arrays["target_policy"][2, 0, arrays["actions"][2, 0]] = 0.0
    after = retrace(arrays)
    torch.testing.assert_close(after[2:], before[2:], rtol=0, atol=0)
    assert abs(after[0, 0] - before[0, 0]) > 1e-6


def test_an_action_the_target_policy_never_takes_cuts_the_trace() -> None:
    """Action 1 at step 1 has pi = 0, so the reward of 100 behind it is invisible from step 0."""
    arrays = one_episode([1.0, 100.0], gamma=0.5, terminated=True)
    arrays["actions"][1] = 1
    np.testing.assert_allclose(retrace(arrays, lambda_=1.0)[:, 0].tolist(), [1.0, 100.0])
    np.testing.assert_allclose(peng(arrays, lambda_=1.0)[:, 0].tolist(), [51.0, 100.0])


def test_peng_bootstraps_from_the_expectation_alone_at_the_last_transition() -> None:
    arrays = one_episode([1.0, 2.0], gamma=0.5, terminated=False, bootstrap=8.0)
    # y_1 = 2 + 0.5 * 8; y_0 = 1 + 0.5 * ((1 - lambda) * 0 + lambda * y_1)
    np.testing.assert_allclose(peng(arrays, lambda_=0.25)[:, 0].tolist(), [1 + 0.5 * 0.25 * 6, 6.0])
