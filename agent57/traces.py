"""Off-policy multi-step targets: Retrace, and Peng's Q(lambda) as an option.

Munos et al. 2016 (Retrace), Agent57 appendix (with rescaling h), Kozuno et al. 2021 (Peng's Q(lambda)). All
arrays are time-major and follow the step convention of `structures.py`: rewards[t] and discounts[t] belong
to the transition t-1 -> t. Called by `losses.py`, for each network with its own rewards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agent57.values import rescale, unrescale


def trace_coefficients(*, target_policy: Tensor, actions: Tensor, behaviour_probs: Tensor, lambda_: float) -> Tensor:
    """c_t = lambda min(1, pi(a_t | x_t) / mu_t), [T+1, B]. Retrace, equation 2.

    ``target_policy`` [T+1, B, A]; ``actions``, ``behaviour_probs`` [T+1, B].
    """
    taken = target_policy.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    return lambda_ * torch.clamp(taken / behaviour_probs, max=1.0)


def retrace_targets(
    *,
    target_q: Tensor,
    target_policy: Tensor,
    actions: Tensor,
    behaviour_probs: Tensor,
    rewards: Tensor,
    discounts: Tensor,
    mask: Tensor,
    lambda_: float,
    eps: float | None,
) -> Tensor:
    """h(h^-1(Q(x_t, a_t)) + sum_{s>=t} (prod_{i=t+1..s} gamma_i c_i) delta_s), [T, B]. Agent57 appendix.

    delta_s = r_{s+1} + gamma_{s+1} sum_a pi(a | x_{s+1}) h^-1(Q(x_{s+1}, a)) - h^-1(Q(x_s, a_s)).

    ``target_q``, ``target_policy`` [T+1, B, A]; ``actions``, ``behaviour_probs``, ``rewards``, ``discounts``
    [T+1, B]; ``discounts[t]`` is gamma_j, or 0 where x_t is terminal. Row 0 of rewards and discounts and the
    last row of actions and probabilities are unused. ``mask`` [T, B] is 1 where the transition t -> t+1
    happened: the sum stops where it ends, so nothing leaks over the end of an episode. ``eps=None`` means no
    rescaling. No gradient is stopped here: call it under ``no_grad``. Rows with mask 0 mean nothing.
    """
    values = target_q if eps is None else unrescale(target_q, eps)
    taken = values.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    expected = (target_policy * values).sum(-1)
    mask = mask.to(values.dtype)
    traces = trace_coefficients(
        target_policy=target_policy, actions=actions, behaviour_probs=behaviour_probs, lambda_=lambda_
    )
    # The step after t enters the sum only if its own transition happened.
    continues = torch.cat([mask[1:], torch.zeros_like(mask[:1])])
    deltas = mask * (rewards[1:] + discounts[1:] * expected[1:] - taken[:-1])
    # where, not a product: unused probabilities may be 0, and 0 / 0 times 0 is not 0.
    weights = torch.where(continues > 0, discounts[1:] * traces[1:], 0.0)
    corrections = _discounted_sum_from_the_end(deltas, weights)
    targets = taken[:-1] + corrections
    return targets if eps is None else rescale(targets, eps)


def peng_targets(
    *,
    target_q: Tensor,
    target_policy: Tensor,
    rewards: Tensor,
    discounts: Tensor,
    mask: Tensor,
    lambda_: float,
    eps: float | None,
) -> Tensor:
    """y_t = r_{t+1} + gamma_{t+1} ((1 - lambda) E_pi Q(x_{t+1}) + lambda y_{t+1}), under h, [T, B].

    Peng's Q(lambda), uncorrected: not in the paper, an option for tasks whose action gaps are so small that
    Retrace cuts nearly every trace. At the last transition of an episode or of a sequence, E_pi Q alone
    bootstraps. Shapes and masks as in `retrace_targets`.
    """
    values = target_q if eps is None else unrescale(target_q, eps)
    expected = (target_policy * values).sum(-1)
    mask = mask.to(values.dtype)
    lambdas = lambda_ * torch.cat([mask[1:], torch.zeros_like(mask[:1])])
    immediate = rewards[1:] + discounts[1:] * (1 - lambdas) * expected[1:]
    targets = _discounted_sum_from_the_end(immediate, discounts[1:] * lambdas)
    return targets if eps is None else rescale(targets, eps)


def _discounted_sum_from_the_end(terms: Tensor, weights: Tensor) -> Tensor:
    """s_t = terms_t + weights_t s_{t+1}, with s_T = 0; [T, B] -> [T, B]."""
    total = torch.zeros_like(terms[0])
    sums = []
    for term, weight in zip(terms.flip(0).unbind(0), weights.flip(0).unbind(0), strict=True):
        total = term + weight * total
        sums.append(total)
    return torch.stack(sums[::-1])
