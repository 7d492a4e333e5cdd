"""The loss of the Q-networks: 1/2 td^2, summed over the steps of a sequence. Agent57 section 3.1 and appendix."""

from __future__ import annotations

import torch
from torch import Tensor

from agent57.errors import SequenceErrors, both_networks, scaled_batch, sequence_errors, taken
from agent57.networks import QNetwork, RecurrentState
from agent57.structures import NET_NAMES, SequenceBatch
from agent57.terms.term import Figure, Over, Term, Update


def q_td(update: Update) -> tuple[Term, SequenceErrors]:
    """The term of both networks, and the errors that it comes from (detached).

    The networks see scaled intrinsic rewards, as when acting.
    """
    online, target, config = update.networks.q_networks, update.target_networks, update.config
    scales = update.networks.scales
    seen = scaled_batch(update.batch, scales)
    seen.observations = online[0].torso_inputs(seen.observations)
    q = both_networks([unroll(network, seen, net, config.burn_in) for net, network in enumerate(online)])
    with torch.no_grad():
        target_q = both_networks([unroll(network, seen, net, config.burn_in) for net, network in enumerate(target)])
    errors = sequence_errors(
        q, target_q, update.batch, update.betas, update.discounts, scales, config, single=len(online) == 1
    )
    losses = (0.5 * errors.td.square() * errors.mask).sum(1).mean(1)
    errors.td = errors.td.detach()
    figures = _figures(losses, taken(q.detach(), update.batch.actions)[:, :-1], errors, len(online))
    return Term(losses.sum(), Over.SEQUENCES, figures), errors


def _figures(losses: Tensor, q_taken: Tensor, errors: SequenceErrors, num_networks: int) -> dict[str, Figure]:
    """Of each network; ``losses`` [2], ``q_taken`` [2, T, B]."""
    valid = errors.mask.to(q_taken.dtype)
    count = valid.sum().clamp(min=1)
    figures = {"trace_coefficient": Figure((errors.coefficients * valid).sum() / count, Over.STEPS)}
    for net, name in enumerate(NET_NAMES[:num_networks]):
        figures |= {
            f"{name}_loss": Figure(losses[net], Over.SEQUENCES),
            f"{name}_mean_q": Figure((q_taken[net] * valid).sum() / count, Over.STEPS),
            f"{name}_max_abs_q": Figure((q_taken[net] * valid).abs().amax(), Over.STEPS, largest=True),
            f"{name}_abs_td": Figure((errors.td[net].abs() * valid).sum() / count, Over.STEPS),
        }
    return figures


def unroll(network: QNetwork, batch: SequenceBatch[Tensor], net: int, burn_in: int) -> Tensor:
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
