"""The whole update, top to bottom: Q-values -> target policy -> targets -> TD errors -> losses, priorities.

Agent57 section 3.1 and appendix (separate Retrace losses under one shared target policy), R2D2 section 2.3
(priorities), NGU section 2 (embedding and RND losses). The learner calls `q_losses`, `embedding_loss` and
`rnd_loss`; actors call `td_errors` and `sequence_priorities` for the priorities of new sequences.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from agent57.config import LossConfig
from agent57.family import epsilon_greedy
from agent57.networks import EmbeddingNetwork, QNetwork, RandomNetworkDistillation, RecurrentState
from agent57.structures import EXTRINSIC, INTRINSIC, NO_ACTION, SequenceBatch
from agent57.traces import peng_targets, retrace_targets, trace_coefficients
from agent57.values import combine_q


@dataclass
class QLosses:
    """What one pass over a batch yields; index 0 is the extrinsic network, 1 the intrinsic one.

    ``losses`` [2] carries gradients; ``td_errors`` [2, T, B] (already divided by ``td_scale``), ``mask`` [T, B]
    (burn-in removed) and ``priorities`` [B] do not. ``mean_q``, ``max_abs_q`` [2] and ``mean_trace`` are
    statistics over valid steps.
    """

    losses: Tensor
    td_errors: Tensor
    mask: Tensor
    priorities: Tensor
    mean_q: Tensor
    max_abs_q: Tensor
    mean_trace: Tensor


def q_losses(
    online: tuple[QNetwork, ...],
    target: tuple[QNetwork, ...],
    batch: SequenceBatch,
    betas: Tensor,
    discounts: Tensor,
    config: LossConfig,
    td_scale: Tensor,
    intrinsic_scale: Tensor,
) -> QLosses:
    """1/2 td^2, summed over valid steps and averaged over the batch, for each network.

    ``betas`` and ``discounts`` [N] are the policy family's; ``td_scale`` [2] and ``intrinsic_scale`` [] are 1
    unless the normalising options are on. The networks see the scaled intrinsic rewards too, as when acting.
    A single network (``network.separate`` off) learns r^e + beta r^i; the intrinsic half of everything is then 0.
    """
    batch = replace(
        batch,
        observations=online[0].torso_inputs(batch.observations),
        intrinsic_rewards=batch.intrinsic_rewards / intrinsic_scale,
    )
    q = both_networks([unroll(network, batch, net, config.burn_in) for net, network in enumerate(online)])
    with torch.no_grad():
        target_q = both_networks([unroll(network, batch, net, config.burn_in) for net, network in enumerate(target)])
    if len(online) == 1:
        batch = with_mixed_rewards(batch, betas)
    mask = loss_mask(batch, config.burn_in)
    td, traces = td_errors(q, target_q, batch, betas, discounts, config)
    td = td / td_scale.view(2, 1, 1)
    losses = (0.5 * td.square() * mask).sum(1).mean(1)
    detached, valid = td.detach(), mask.to(td.dtype)
    taken = _taken(q.detach(), batch.actions)[:, :-1]
    num_valid = valid.sum().clamp(min=1)
    return QLosses(
        losses=losses,
        td_errors=detached,
        mask=mask,
        priorities=sequence_priorities(detached, mask, betas[batch.policy_index], config.priority_eta),
        mean_q=(taken * valid).sum((1, 2)) / num_valid,
        max_abs_q=(taken * valid).abs().amax((1, 2)),
        mean_trace=(traces[:-1] * valid).sum() / num_valid,
    )


def both_networks(values: list[Tensor]) -> Tensor:
    """Extrinsic and intrinsic Q-values stacked, [2, ...]; a single network's come with zeros for the other."""
    return torch.stack(values if len(values) == 2 else [values[0], torch.zeros_like(values[0])])


def with_mixed_rewards(batch: SequenceBatch, betas: Tensor) -> SequenceBatch:
    """``batch`` with r^e + beta_j r^i as its extrinsic rewards and no intrinsic ones: what a single network learns.

    NGU section 3, the parameterisation that Agent57 replaced. Intrinsic rewards must be scaled already.
    """
    mixed = batch.extrinsic_rewards + betas[batch.policy_index] * batch.intrinsic_rewards
    return replace(batch, extrinsic_rewards=mixed, intrinsic_rewards=torch.zeros_like(mixed))


def unroll(network: QNetwork, batch: SequenceBatch, net: int, burn_in: int) -> Tensor:
    """Q-values of every step of a batch, [T+1, B, A], from the stored recurrent states.

    After ``burn_in`` steps the recurrent state is detached, so those steps get no gradient through it.
    """
    state: RecurrentState = (batch.recurrent_state[net, 0], batch.recurrent_state[net, 1])
    parts = []
    for span in (slice(0, burn_in), slice(burn_in, None)):
        if span.stop == 0:
            continue
        q, (h, c) = network(
            batch.observations[span],
            batch.previous_actions[span],
            batch.extrinsic_rewards[span],
            batch.intrinsic_rewards[span],
            batch.policy_index,
            state,
        )
        state = (h.detach(), c.detach())
        parts.append(q)
    return torch.cat(parts)


def loss_mask(batch: SequenceBatch, burn_in: int) -> Tensor:
    """The batch's mask [T, B] without burn-in steps.

    A sequence that starts an episode starts from the true zero state and needs no burn-in.
    """
    mask = batch.mask.clone()
    mask[:burn_in] &= batch.previous_actions[0] == NO_ACTION
    return mask


def td_errors(
    q: Tensor,
    target_q: Tensor,
    batch: SequenceBatch,
    betas: Tensor,
    discounts: Tensor,
    config: LossConfig,
) -> tuple[Tensor, Tensor]:
    """(y^n - Q^n(x_t, a_t) for both networks [2, T, B], trace coefficients [T+1, B]).

    ``q``, ``target_q`` [2, T+1, B, A]; the batch's intrinsic rewards must be scaled already. Each network has
    its own rewards, but both are evaluated under one target policy: epsilon-greedy on the *online* combined Q.
    Gradients flow through ``q`` of taken actions.
    """
    beta = betas[batch.policy_index].unsqueeze(-1)
    with torch.no_grad():
        combined = combine_q(q[EXTRINSIC], q[INTRINSIC], beta, config.mix, config.rescale_epsilon)
        policy = epsilon_greedy(combined, config.target_epsilon)
        traces = trace_coefficients(
            target_policy=policy,
            actions=batch.actions,
            behaviour_probs=batch.behaviour_probs,
            lambda_=config.trace_lambda,
        )
        gamma = discounts[batch.policy_index] * ~batch.terminated
        rewards = (batch.extrinsic_rewards, batch.intrinsic_rewards)
        targets = torch.stack([_targets(target_q[net], policy, rewards[net], gamma, batch, config) for net in (0, 1)])
    return targets - _taken(q, batch.actions)[:, :-1], traces


def _targets(
    target_q: Tensor, policy: Tensor, rewards: Tensor, gamma: Tensor, batch: SequenceBatch, config: LossConfig
) -> Tensor:
    if config.trace == "peng":
        return peng_targets(
            target_q=target_q,
            target_policy=policy,
            rewards=rewards,
            discounts=gamma,
            mask=batch.mask,
            lambda_=config.trace_lambda,
            eps=config.rescale_epsilon,
        )
    return retrace_targets(
        target_q=target_q,
        target_policy=policy,
        actions=batch.actions,
        behaviour_probs=batch.behaviour_probs,
        rewards=rewards,
        discounts=gamma,
        mask=batch.mask,
        lambda_=config.trace_lambda,
        eps=config.rescale_epsilon,
    )


def _taken(q: Tensor, actions: Tensor) -> Tensor:
    """Q of the actions taken: [2, T+1, B, A], [T+1, B] -> [2, T+1, B]."""
    return q.gather(-1, actions.expand(q.shape[0], *actions.shape).unsqueeze(-1)).squeeze(-1)


def sequence_priorities(td_error: Tensor, mask: Tensor, beta: Tensor, eta: float) -> Tensor:
    """eta max |td| + (1 - eta) mean |td| over valid steps, |td| = |td_e| + beta_j |td_i|; [B].

    ``td_error`` [2, T, B]; ``mask`` [T, B]; ``beta`` [B]. R2D2 section 2.3. A sequence without a valid step
    gets 0, so the caller must not insert one.
    """
    error = (td_error[EXTRINSIC].abs() + beta * td_error[INTRINSIC].abs()) * mask
    mean = error.sum(0) / mask.sum(0).clamp(min=1)
    return eta * error.amax(0) + (1 - eta) * mean


def last_transitions(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Time and batch indices (t, b), each [n], of the last ``count`` valid transitions of each sequence.

    ``mask`` [T, B]; n <= count * B, fewer where sequences are shorter. NGU trains its embedding and its RND
    predictor on the last 5 steps of each sampled sequence.
    """
    lengths = mask.sum(0)
    steps = torch.arange(mask.shape[0], device=mask.device).unsqueeze(1)
    t, b = torch.nonzero(mask & (steps >= lengths - count), as_tuple=True)
    return t, b


def embedding_loss(
    network: EmbeddingNetwork, observations: Tensor, next_observations: Tensor, actions: Tensor
) -> tuple[Tensor, Tensor]:
    """(cross-entropy of the action between consecutive observations, share of right guesses), both [].

    ``observations``, ``next_observations`` [n, *obs]; ``actions`` int64 [n]. NGU section 2.
    """
    both = network(torch.cat([observations, next_observations]))
    logits = network.action_logits(*both.chunk(2))
    accuracy = (logits.argmax(-1) == actions).float().mean()
    return F.cross_entropy(logits, actions), accuracy.detach()


def rnd_loss(network: RandomNetworkDistillation, observations: Tensor) -> Tensor:
    """Mean squared prediction error over [n, *obs], []. Burda et al. 2018."""
    return network(observations).mean()
