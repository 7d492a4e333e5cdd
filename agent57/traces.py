"""Multi-step targets: one recursion, whose trace coefficient and baseline tell Retrace from Peng's Q(lambda).

Munos et al. 2016 (Retrace), Agent57 appendix (with rescaling h), Kozuno et al. 2021 (Peng's Q(lambda)), Kapturowski
et al. 2022 (soft Watkins' Q(lambda), MEME section 4 A2). All
arrays are time-major and follow the step convention of `structures.py`: rewards[t] and discounts[t] belong
to the transition t-1 -> t. `errors.py` calls it, for each network with its own rewards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import torch
from torch import Tensor

from agent57.values import rescale, unrescale


@dataclass(frozen=True)
class Acted:
    """What a trace coefficient may depend on: what was done, and what the target policy would have done.

    ``q``, ``target_policy`` [T+1, B, A]: the Q-values that actions are compared by, as the networks give them, and the
    policy on them. ``actions`` int64, ``behaviour_probs`` [T+1, B]; ``lambda_`` in [0, 1], ``kappa`` >= 0.
    """

    q: Tensor
    target_policy: Tensor
    actions: Tensor
    behaviour_probs: Tensor
    lambda_: float
    kappa: float


@dataclass(frozen=True)
class Estimator:
    """How far a target trusts the steps that follow.

    ``coefficients`` gives c_t, [T+1, B]. ``baseline`` is what a following target is compared with: the value of the
    action "taken" there, or "expected" under the target policy.
    """

    coefficients: Callable[[Acted], Tensor]
    baseline: Literal["taken", "expected"]


def _retrace(acted: Acted) -> Tensor:
    """lambda min(1, pi(a_t | x_t) / mu_t). Retrace, equation 2."""
    taken = acted.target_policy.gather(-1, acted.actions.unsqueeze(-1)).squeeze(-1)
    return acted.lambda_ * torch.clamp(taken / acted.behaviour_probs, max=1.0)


def _peng(acted: Acted) -> Tensor:
    """lambda, uncorrected: for tasks whose action gaps are so small that Retrace cuts nearly every trace."""
    return torch.full_like(acted.target_policy[..., 0], acted.lambda_)


def _soft_watkins(acted: Acted) -> Tensor:
    """lambda E_pi' 1[Q(x, a_t) >= Q(x, a) - kappa |Q(x, a)|]: cut where the action was clearly not greedy.

    kappa 0 and a greedy pi' give Watkins' Q(lambda), a large kappa Peng's; behaviour probabilities do not enter. MEME
    section 4 A2.
    """
    taken = acted.q.gather(-1, acted.actions.unsqueeze(-1))
    tolerated = taken >= acted.q - acted.kappa * acted.q.abs()
    return acted.lambda_ * (acted.target_policy * tolerated).sum(-1)


class Trace(Enum):
    """The estimators by the names that ``loss.trace`` knows."""

    retrace = Estimator(_retrace, baseline="taken")
    peng = Estimator(_peng, baseline="expected")
    soft_watkins = Estimator(_soft_watkins, baseline="expected")


TRACES: dict[str, Estimator] = {trace.name: trace.value for trace in Trace}
"""What ``loss.trace`` may name: the members of `Trace`, and those that `actors/extensions.py` adds."""


def targets(
    trace: Trace,
    *,
    q: Tensor,
    target_policy: Tensor,
    actions: Tensor,
    behaviour_probs: Tensor,
    rewards: Tensor,
    discounts: Tensor,
    mask: Tensor,
    lambda_: float,
    eps: float | None,
    kappa: float = 0.01,
    compare_q: Tensor | None = None,
) -> Tensor:
    """`multi_step_targets` with the coefficients and the baseline of ``trace``; [T, B].

    ``compare_q`` [T+1, B, A]: by which soft Watkins compares actions, if not by the ``q`` that bootstraps.
    """
    compared = q if compare_q is None else compare_q
    acted = Acted(compared, target_policy, actions, behaviour_probs, lambda_, kappa)
    return multi_step_targets(trace.value, trace.value.coefficients(acted), acted, q, rewards, discounts, mask, eps)


def multi_step_targets(
    estimator: Estimator,
    coefficients: Tensor,
    acted: Acted,
    q: Tensor,
    rewards: Tensor,
    discounts: Tensor,
    mask: Tensor,
    eps: float | None,
) -> Tensor:
    """h(G_t), [T, B], with G_t = r_{t+1} + gamma_{t+1} (V(x_{t+1}) + c_{t+1} (G_{t+1} - b_{t+1})).

    V(x) = sum_a pi(a | x) h^-1(Q(x, a)); the baseline b is h^-1(Q(x, a_t)) or V(x). For Retrace that is h^-1(Q) plus
    the sum of discounted and traced TD errors (Agent57 appendix), for Peng's Q(lambda) the mix of V and G by lambda.

    ``q`` [T+1, B, A]; ``coefficients`` c, ``rewards``, ``discounts`` [T+1, B]; ``discounts[t]`` is gamma_j, or 0 where
    x_t is terminal. Row 0 of rewards and discounts and the last row of actions and probabilities are unused. ``mask``
    [T, B] is 1 where the transition t -> t+1 happened: a target looks no further than the last one in a row, so nothing
    leaks over the end of an episode. ``eps=None`` means no rescaling. No gradient is stopped here: call it under
    ``no_grad``. Rows with mask 0 mean nothing.
    """
    values = q if eps is None else unrescale(q, eps)
    expected = (acted.target_policy * values).sum(-1)
    taken = values.gather(-1, acted.actions.unsqueeze(-1)).squeeze(-1)
    baseline = taken if estimator.baseline == "taken" else expected
    # The step after t enters only if its own transition happened. where, not a product: unused probabilities may be 0,
    # and 0 / 0 times 0 is not 0.
    continues = torch.cat([mask[1:], torch.zeros_like(mask[:1])]) > 0
    weights = torch.where(continues, coefficients[1:], 0.0)
    immediate = rewards[1:] + discounts[1:] * (expected[1:] - weights * baseline[1:])
    # Nor may what an unused row holds, be it not finite, reach the rows before it.
    immediate = torch.where(mask > 0, immediate, 0.0)
    returns = _discounted_sum_from_the_end(immediate, discounts[1:] * weights)
    return returns if eps is None else rescale(returns, eps)


def _discounted_sum_from_the_end(terms: Tensor, weights: Tensor) -> Tensor:
    """s_t = terms_t + weights_t s_{t+1}, with s_T = 0; [T, B] -> [T, B]."""
    total = torch.zeros_like(terms[0])
    sums = []
    for term, weight in zip(terms.flip(0).unbind(0), weights.flip(0).unbind(0), strict=True):
        total = term + weight * total
        sums.append(total)
    return torch.stack(sums[::-1])
