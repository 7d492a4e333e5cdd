"""From the values of all N policies to TD errors and priorities: every policy learns from every sequence.

MEME sections 4 A1 and A2 (targets), B1 (scales), B2 (all policies), C2 (the combined loss). The policies of a sequence
stand beside each other as if they were sequences of their own, so traces and targets are those of `traces.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from agent57.config import LossConfig, choose
from agent57.errors import SequenceErrors, loss_mask, priorities_of
from agent57.family import epsilon_greedy
from agent57.scales import Scales
from agent57.structures import EXTRINSIC, INTRINSIC, SequenceBatch, one_hot
from agent57.traces import TRACES, Acted, multi_step_targets


def combined_q(outputs: Tensor, betas: Tensor) -> Tensor:
    """Q_j = Q^e_j + beta_j Q^i_j, in the network's own units: [..., 2 or more, N, A] -> [..., N, A]. MEME, 4 C2."""
    return outputs[..., EXTRINSIC, :, :] + betas.unsqueeze(-1) * outputs[..., INTRINSIC, :, :]


def policy_weights(policy_index: Tensor, num_policies: int, eta: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """How much each policy's error counts in each sequence: eta for the one that played it, the rest for all; [B, N].

    MEME section 4 B2, equation 6.
    """
    played = one_hot(policy_index, num_policies, dtype)
    return eta * played + (1 - eta) / num_policies


def all_policy_errors(
    q: Tensor,
    bootstrap_q: Tensor,
    logits: Tensor | None,
    batch: SequenceBatch[Tensor],
    betas: Tensor,
    discounts: Tensor,
    scales: Scales,
    config: LossConfig,
    sum_over_ranks: Callable[[Tensor], Tensor] | None = None,
) -> SequenceErrors:
    """y^j - Q_j(x_t, a_t) of all policies j, and what follows from them.

    ``q``, ``bootstrap_q`` [T+1, B, N, A] are combined values; ``logits`` [T+1, B, N, A] of the policy head, under whose
    sharpened policy targets are taken; without one it is epsilon-greedy on ``q``. ``betas``, ``discounts`` [N].
    ``sum_over_ranks``: as in `sequence_errors`.
    """
    num_policies = q.shape[2]
    with torch.no_grad():
        if logits is None:
            policy = epsilon_greedy(q, config.target_epsilon)
        else:
            policy = torch.softmax(logits / config.policy_temperature, -1)
        of_each = (*batch.actions.shape, num_policies)
        actions = batch.actions.unsqueeze(-1).expand(of_each)
        acted = Acted(
            _beside(q),
            _beside(policy),
            _beside(actions),
            _beside(batch.behaviour_probs.unsqueeze(-1).expand(of_each)),
            config.trace_lambda,
            config.kappa,
        )
        estimator = choose(TRACES, config.trace, "loss.trace")
        coefficients = estimator.coefficients(acted)
        rewards = batch.extrinsic_rewards.unsqueeze(-1) + betas * scales.rewards(batch.intrinsic_rewards).unsqueeze(-1)
        targets = multi_step_targets(
            estimator,
            coefficients,
            acted,
            _beside(bootstrap_q),
            _beside(rewards),
            _beside(discounts * ~batch.terminated.unsqueeze(-1)),
            batch.mask.repeat_interleave(num_policies, 1),
            config.rescale_epsilon,
        ).unflatten(1, of_each[1:])
    raw = targets - q_taken(q, batch.actions)[:-1]
    mask = loss_mask(batch, config.burn_in)
    index, statistics = torch.arange(num_policies, device=q.device), None
    if sum_over_ranks is not None:
        every = index.repeat(len(batch.policy_index))
        statistics = sum_over_ranks(scales.summed(_beside(raw)[None], mask, every, batch.intrinsic_rewards[1:]))
    sigma = scales.of_sequences(index, statistics)[0]
    td = raw / sigma
    weights = policy_weights(batch.policy_index, num_policies, config.mixture_eta, td.dtype)
    priorities = priorities_of((td.detach().abs() * weights).sum(-1), mask, config.priority_eta)
    return SequenceErrors(td, mask, priorities, coefficients[:-1].unflatten(1, of_each[1:]), targets, sigma, statistics)


def q_taken(q: Tensor, actions: Tensor) -> Tensor:
    """Q_j of the actions taken: [T+1, B, N, A], [T+1, B] -> [T+1, B, N]."""
    return q.gather(-1, actions[..., None, None].expand(*q.shape[:-1], 1)).squeeze(-1)


def _beside(of_policies: Tensor) -> Tensor:
    """[T, B, N, ...] -> [T, B * N, ...]."""
    return of_policies.flatten(1, 2)
