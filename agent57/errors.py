"""From Q-values to TD errors and priorities: the one function that learner and actors call.

Agent57 section 3.1 and appendix (separate Retrace targets under one shared target policy), R2D2 section 2.3
(priorities). Target policy -> trace coefficients -> targets -> TD errors, divided by their scale -> priorities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from agent57.config import LossConfig, choose
from agent57.family import epsilon_greedy
from agent57.scales import Scales
from agent57.structures import EXTRINSIC, INTRINSIC, NO_ACTION, SequenceBatch
from agent57.traces import TRACES, Acted, multi_step_targets
from agent57.values import combine_q


@dataclass
class SequenceErrors:
    """``td`` [2, T, B], index 0 of the extrinsic network, 1 of the intrinsic one, in units of their scale.

    A shared network has one for each policy, [T, B, N] (`all_policies.py`). Its gradients flow through the Q-values of
    the actions taken; nothing else has any. ``mask`` [T, B] says which steps count (burn-in does not), ``priorities``
    [B]. Like ``td``: ``targets``, ``sigma``, the scale, and ``coefficients``, those of the trace, without an axis of
    networks. ``statistics`` are what the running scales take in (`Scales.summed`).
    """

    td: Tensor
    mask: Tensor
    priorities: Tensor
    coefficients: Tensor
    targets: Tensor
    sigma: Tensor
    statistics: Tensor | None


def sequence_errors(
    q: Tensor,
    bootstrap_q: Tensor,
    batch: SequenceBatch[Tensor],
    betas: Tensor,
    discounts: Tensor,
    scales: Scales,
    config: LossConfig,
    single: bool = False,
    sum_over_ranks: Callable[[Tensor], Tensor] | None = None,
) -> SequenceErrors:
    """y^n - Q^n(x_t, a_t) of both networks n, and what follows from them.

    ``q``, ``bootstrap_q`` [2, T+1, B, A] (see `both_networks`); ``betas``, ``discounts`` [N] are the policy family's.
    Each network has its own rewards, but both are evaluated under one target policy: epsilon-greedy on the *online*
    combined Q. A ``single`` network learns r^e + beta r^i; the intrinsic half of everything is then 0.
    ``sum_over_ranks`` adds up what the parts of one batch tell of its scale: where errors become a loss. Without it, as
    actors call this, the scale is the running one.
    """
    intrinsic = scales.rewards(batch.intrinsic_rewards)
    if single:
        # NGU section 3, the parameterisation that Agent57 replaced.
        mixed = batch.extrinsic_rewards + betas[batch.policy_index] * intrinsic
        rewards = (mixed, torch.zeros_like(mixed))
    else:
        rewards = (batch.extrinsic_rewards, intrinsic)
    beta = betas[batch.policy_index]
    with torch.no_grad():
        combined = combine_q(q[EXTRINSIC], q[INTRINSIC], beta.unsqueeze(-1), config.mix, config.rescale_epsilon)
        policy = epsilon_greedy(combined, config.target_epsilon)
        acted = Acted(combined, policy, batch.actions, batch.behaviour_probs, config.trace_lambda, config.kappa)
        estimator = choose(TRACES, config.trace, "loss.trace")
        coefficients = estimator.coefficients(acted)
        gamma = discounts[batch.policy_index] * ~batch.terminated
        arrays = (gamma, batch.mask, config.rescale_epsilon)
        targets = torch.stack(
            [
                multi_step_targets(estimator, coefficients, acted, bootstrap_q[net], rewards[net], *arrays)
                for net in (EXTRINSIC, INTRINSIC)
            ]
        )
    raw = targets - taken(q, batch.actions)[:, :-1]
    mask = loss_mask(batch, config.burn_in)
    statistics = None
    if sum_over_ranks is not None:
        statistics = sum_over_ranks(scales.summed(raw, mask, batch.policy_index, batch.intrinsic_rewards[1:]))
    sigma = scales.of_sequences(batch.policy_index, statistics)
    td = raw / sigma
    priorities = sequence_priorities(td.detach(), mask, beta, config.priority_eta)
    return SequenceErrors(td, mask, priorities, coefficients[:-1], targets, sigma, statistics)


def both_networks(values: list[Tensor]) -> Tensor:
    """Extrinsic and intrinsic Q-values stacked, [2, ...]; a single network's come with zeros for the other."""
    return torch.stack(values if len(values) == 2 else [values[0], torch.zeros_like(values[0])])


def taken(q: Tensor, actions: Tensor) -> Tensor:
    """Q of the actions taken: [2, T+1, B, A], [T+1, B] -> [2, T+1, B]."""
    return q.gather(-1, actions.expand(q.shape[0], *actions.shape).unsqueeze(-1)).squeeze(-1)


def loss_mask(batch: SequenceBatch[Tensor], burn_in: int) -> Tensor:
    """The batch's mask [T, B] without burn-in steps.

    A sequence that starts an episode starts from the true zero state and needs no burn-in.
    """
    mask = batch.mask.clone()
    mask[:burn_in] &= batch.previous_actions[0] == NO_ACTION
    return mask


def sequence_priorities(td_error: Tensor, mask: Tensor, beta: Tensor, eta: float) -> Tensor:
    """eta max |td| + (1 - eta) mean |td| over valid steps, |td| = |td_e| + beta_j |td_i|; [B].

    ``td_error`` [2, T, B]; ``mask`` [T, B]; ``beta`` [B]. R2D2 section 2.3. A sequence without a valid step
    gets 0, so the caller must not insert one.
    """
    return priorities_of(td_error[EXTRINSIC].abs() + beta * td_error[INTRINSIC].abs(), mask, eta)


def priorities_of(errors: Tensor, mask: Tensor, eta: float) -> Tensor:
    """eta max + (1 - eta) mean of ``errors`` [T, B] >= 0 over the steps of ``mask``; [B]. R2D2 section 2.3."""
    errors = errors * mask
    return eta * errors.amax(0) + (1 - eta) * errors.sum(0) / mask.sum(0).clamp(min=1)


def scaled_batch(batch: SequenceBatch[Tensor], scales: Scales) -> SequenceBatch[Tensor]:
    """``batch`` as the networks see it: with scaled intrinsic rewards, as when acting."""
    return replace(batch, intrinsic_rewards=scales.rewards(batch.intrinsic_rewards))
