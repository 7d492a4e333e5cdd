"""The value rescaling h, its inverse, and the mix of the two Q-functions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from agent57.values import combine_q, rescale, unrescale
from tests import oracles

MAGNITUDES = [0.0, 1e-6, 1e-3, 0.5, 1.0, 3.0, 10.0, 91.0, 1e3, 1e5, 1e7]
WIDE = torch.tensor(sorted({sign * x for x in MAGNITUDES for sign in (-1, 1)}), dtype=torch.float64)


@pytest.mark.parametrize("eps", [1e-4, 1e-3, 1e-2])
def test_rescale_agrees_with_the_oracle(eps: float) -> None:
    expected = [oracles.rescale(x, eps) for x in WIDE.tolist()]
    np.testing.assert_allclose(rescale(WIDE, eps).tolist(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("eps", [1e-4, 1e-3, 1e-2])
def test_unrescale_agrees_with_bisection(eps: float) -> None:
    """NGU's appendix prints h^-1 without its square; bisection cannot share the misprint."""
    values = torch.tensor([-300.0, -30.0, -2.0, -0.1, 0.0, 0.01, 0.4, 1.0, 5.0, 80.0, 1000.0], dtype=torch.float64)
    expected = [oracles.unrescale(y, eps) for y in values.tolist()]
    np.testing.assert_allclose(unrescale(values, eps).tolist(), expected, rtol=1e-9, atol=1e-10)


def test_epsilon_is_one_thousandth_unless_given() -> None:
    assert rescale(torch.tensor(3.0, dtype=torch.float64)).item() == pytest.approx(1.003, abs=1e-12)
    assert unrescale(torch.tensor(1.003, dtype=torch.float64)).item() == pytest.approx(3.0, abs=1e-9)


def test_hand_computed_values() -> None:
    x = torch.tensor([0.0, 3.0, -3.0, 8.0, 99.0], dtype=torch.float64)
    np.testing.assert_allclose(rescale(x, 1e-3).tolist(), [0.0, 1.003, -1.003, 2.008, 9.099], rtol=1e-12)


@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(torch.float64, 1e-9, 1e-10), (torch.float32, 2e-5, 1e-6)])
def test_each_undoes_the_other(dtype: torch.dtype, rtol: float, atol: float) -> None:
    """The printed h^-1 cancels in float32: 6e-5 off around 0. An equal form does better."""
    x = WIDE.to(dtype)
    assert rescale(x).dtype == unrescale(x).dtype == dtype
    torch.testing.assert_close(unrescale(rescale(x)), x, rtol=rtol, atol=atol)
    torch.testing.assert_close(rescale(unrescale(x)), x, rtol=rtol, atol=atol)


def test_both_are_odd_and_rise() -> None:
    for function in (rescale, unrescale):
        torch.testing.assert_close(function(-WIDE), -function(WIDE))
        assert (function(WIDE).diff() > 0).all()


def test_unrescale_has_a_finite_gradient_at_zero() -> None:
    x = torch.zeros(3, requires_grad=True)
    (unrescale(x).sum() + rescale(x).sum()).backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("mix", ["rescaled", "linear"])
def test_combined_q_agrees_with_the_oracle(mix: str) -> None:
    generator = torch.Generator().manual_seed(0)
    q_ext = torch.randn(4, 3, generator=generator, dtype=torch.float64) * 10
    q_int = torch.randn(4, 3, generator=generator, dtype=torch.float64) * 10
    beta = torch.tensor([0.0, 0.1, 0.3, 2.0], dtype=torch.float64)
    combined = combine_q(q_ext, q_int, beta[:, None], mix, 1e-3)
    for b in range(4):
        for a in range(3):
            expected = oracles.combine_q(q_ext[b, a].item(), q_int[b, a].item(), beta[b].item(), mix, 1e-3)
            assert combined[b, a].item() == pytest.approx(expected, rel=1e-8)


def test_mixing_with_beta_zero_leaves_the_extrinsic_values() -> None:
    q_ext, q_int = torch.tensor([[1.0, -7.0]]), torch.tensor([[math.pi, 1e4]])
    for mix in ("rescaled", "linear"):
        torch.testing.assert_close(combine_q(q_ext, q_int, torch.zeros(1, 1), mix, 1e-3), q_ext, rtol=1e-5, atol=1e-5)
