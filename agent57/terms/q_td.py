"""The loss of the Q-networks: 1/2 td^2, summed over the steps of a sequence. Agent57 section 3.1 and appendix."""

from __future__ import annotations

import torch
from torch import Tensor

from agent57.errors import SequenceErrors, both_networks, scaled_batch, sequence_errors, taken
from agent57.networks import RecurrentNetwork, RecurrentState
from agent57.structures import NET_NAMES, SequenceBatch
from agent57.terms.term import Figure, Over, Term, Update, mean_over_sequences


def q_td(update: Update) -> tuple[Term, SequenceErrors]:
    """The term of both networks, and the errors that it comes from (detached).

    The networks see scaled intrinsic rewards, as when acting.
    """
    online, target, config = update.networks.q_networks, update.target_networks, update.config
    scales = update.networks.scales
    seen = scaled_batch(update.batch, scales)
    seen.observations = online[0].torso_inputs(seen.observations)
    unrolled = [unroll(network, seen, net, config.burn_in, update.draws[net]) for net, network in enumerate(online)]
    q = both_networks(unrolled)
    bootstrap_q = centre_q = q.detach()
    if config.bootstrap == "target" or config.trust_region is not None:
        with torch.no_grad():
            centre_q = both_networks([unroll(network, seen, net, config.burn_in) for net, network in enumerate(target)])
        bootstrap_q = centre_q if config.bootstrap == "target" else bootstrap_q
    errors = sequence_errors(
        q,
        bootstrap_q,
        update.batch,
        update.betas,
        update.discounts,
        scales,
        config,
        single=len(online) == 1,
        sum_over_ranks=update.sum_statistics,
    )
    q_taken = taken(q.detach(), update.batch.actions)[:, :-1]
    figures: dict[str, Figure] = {}
    kept = errors.mask.expand_as(errors.td)
    if config.trust_region is not None:
        centre = taken(centre_q, update.batch.actions)[:, :-1]
        outside = outside_trust_region(q_taken, centre, errors.targets, errors.sigma, config.trust_region)
        kept = kept & ~outside
        figures |= masked_figures(outside[: len(online)], errors.mask, update.batch.policy_index, len(update.betas))
    losses = mean_over_sequences((0.5 * errors.td.square() * kept).sum(1), update.importance)
    errors.td = errors.td.detach()
    figures |= _figures(losses, q_taken, errors, len(online))
    return Term(losses.sum(), Over.SEQUENCES, figures), errors


def outside_trust_region(q: Tensor, centre_q: Tensor, targets: Tensor, sigma: Tensor, alpha: float) -> Tensor:
    """Which steps are left out of the loss, bool: |Q - Q_T| > alpha sigma, and a step towards the target leads further.

    ``q``, ``centre_q``: values of the actions taken, by the online and the target network; all broadcast against each
    other. MEME section 4 A1, equations 1 and 2.
    """
    away = q - centre_q
    return (away.abs() > alpha * sigma) & (away.sign() != (q - targets).sign())


def masked_figures(outside: Tensor, mask: Tensor, policy_index: Tensor, num_policies: int) -> dict[str, Figure]:
    """The share of steps left out of the loss, and what each policy contributes to it.

    ``outside`` [nets, T, B], ``mask`` [T, B], ``policy_index`` [B].
    """
    share = (outside & mask).sum((0, 1)) / (len(outside) * mask.sum().clamp(min=1))  # [B]
    of_policy = torch.zeros(num_policies, device=share.device, dtype=share.dtype).index_add_(0, policy_index, share)
    figures = {f"masked_share/{j:02}": Figure(each, Over.STEPS) for j, each in enumerate(of_policy)}
    return {"masked_share": Figure(share.sum(), Over.STEPS), **figures}


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


def unroll(
    network: RecurrentNetwork,
    batch: SequenceBatch[Tensor],
    net: int,
    burn_in: int,
    draws: Tensor | None = None,
) -> Tensor:
    """A network's outputs at every step of a batch, [T+1, B, *], from the stored recurrent states.

    After ``burn_in`` steps the recurrent state is detached, so those steps get no gradient through it.
    ``draws`` [branches, B] decide what the torso leaves out of each sequence, at all its steps; None: nothing.
    """
    state: RecurrentState = (batch.recurrent_state[net, 0], batch.recurrent_state[net, 1])
    parts = []
    for span in (slice(0, burn_in), slice(burn_in, None)):
        if span.stop == 0:
            continue
        outputs, (h, c) = network(
            batch.observations[span],
            batch.previous_actions[span],
            batch.extrinsic_rewards[span],
            batch.intrinsic_rewards[span],
            batch.policy_index,
            state,
            draws,
        )
        state = (h.detach(), c.detach())
        parts.append(outputs)
    return torch.cat(parts)
