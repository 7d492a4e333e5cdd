"""The loss of the shared network: 1/2 td^2 of all policies, and the distillation of its policy head.

MEME section 4 A1 (trust region), B2 and C2 (one loss on the combined values of all policies), D (the policy head).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from agent57.all_policies import all_policy_errors, combined_q, policy_weights, q_taken
from agent57.config import LossConfig
from agent57.errors import SequenceErrors, scaled_batch
from agent57.family import epsilon_greedy
from agent57.networks.shared_network import POLICY
from agent57.terms.q_td import outside_trust_region, unroll
from agent57.terms.term import Figure, Over, Term, Update


def all_policies_td(update: Update) -> tuple[Term, SequenceErrors]:
    """The term of the shared network, and the errors that it comes from (detached)."""
    (online,), (target,), config = update.networks.q_networks, update.target_networks, update.config
    seen = scaled_batch(update.batch, update.networks.scales)
    seen.observations = online.torso_inputs(seen.observations)
    outputs = unroll(online, seen, 0, config.burn_in, update.draws[0])
    has_head = outputs.shape[2] > POLICY
    centre = outputs.detach()
    if config.bootstrap == "target" or config.trust_region is not None or (has_head and config.distillation_kl):
        with torch.no_grad():
            centre = unroll(target, seen, 0, config.burn_in)
    q, centre_q = combined_q(outputs, update.betas), combined_q(centre, update.betas)
    logits = outputs[:, :, POLICY] if has_head else None
    errors = all_policy_errors(
        q,
        centre_q if config.bootstrap == "target" else q.detach(),
        None if logits is None else logits.detach(),
        update.batch,
        update.betas,
        update.discounts,
        update.networks.scales,
        config,
        sum_over_ranks=update.sum_statistics,
    )
    taken = q_taken(q.detach(), update.batch.actions)[:-1]
    counted = errors.mask.unsqueeze(-1).expand_as(errors.td)
    weights = policy_weights(update.batch.policy_index, len(update.betas), config.mixture_eta, taken.dtype)
    if update.importance is not None:
        weights = weights * update.importance.unsqueeze(-1)
    figures: dict[str, Figure] = {}
    kept = counted
    if config.trust_region is not None:
        centre_taken = q_taken(centre_q, update.batch.actions)[:-1]
        outside = outside_trust_region(taken, centre_taken, errors.targets, errors.sigma, config.trust_region)
        kept = counted & ~outside
        figures |= _shares("masked_share", outside & counted, errors.mask)
    loss = _weighted(0.5 * errors.td.square() * kept, weights)
    errors.td = errors.td.detach()
    figures |= _figures(loss, taken, errors)
    if logits is not None:
        policy_loss, policy_figures = distillation(
            logits[:-1], q.detach()[:-1], centre[:-1, :, POLICY], errors.mask, weights, config
        )
        loss = loss + policy_loss
        figures |= policy_figures
    return Term(loss, Over.SEQUENCES, figures), errors


def distillation(
    logits: Tensor, q: Tensor, centre_logits: Tensor, mask: Tensor, weights: Tensor, config: LossConfig
) -> tuple[Tensor, dict[str, Figure]]:
    """Cross-entropy of the policy head with the epsilon-greedy policy on the values, and its figures.

    ``logits``, ``q``, ``centre_logits`` (of the target network) [T, B, N, A]; ``mask`` [T, B]; ``weights`` [B, N].
    Steps on which the head has moved too far from the target network's, KL(pi_T || pi), are left out. MEME section 4
    D, equation 9.
    """
    log_policy = F.log_softmax(logits, -1)
    aim = epsilon_greedy(q, config.distillation_epsilon)
    counted = mask.unsqueeze(-1).expand(logits.shape[:-1])
    kept = counted
    log_centre = F.log_softmax(centre_logits, -1)
    divergence = (log_centre.exp() * (log_centre - log_policy.detach())).sum(-1)
    if config.distillation_kl is not None:
        kept = counted & (divergence <= config.distillation_kl)
    loss = _weighted(-(aim * log_policy).sum(-1) * kept, weights)
    agrees = logits.detach().argmax(-1) == q.argmax(-1)
    count = (mask.sum() * logits.shape[2]).clamp(min=1)
    return loss, {
        "policy_loss": Figure(loss.detach(), Over.SEQUENCES),
        "policy_masked_share": Figure((counted & ~kept).sum() / count, Over.STEPS),
        "policy_agreement": Figure((agrees & counted).sum() / count, Over.STEPS),
        "policy_divergence": Figure((divergence * counted).sum() / count, Over.STEPS),
    }


def _weighted(per_step: Tensor, weights: Tensor) -> Tensor:
    """[T, B, N] summed over steps, weighted over policies, and averaged over sequences; []."""
    return (per_step.sum(0) * weights).sum(1).mean()


def _shares(name: str, chosen: Tensor, mask: Tensor) -> dict[str, Figure]:
    """The share of steps that are ``chosen`` [T, B, N], and that of each policy."""
    of_policy = chosen.sum((0, 1)) / mask.sum().clamp(min=1)
    each = {f"{name}/{j:02}": Figure(share, Over.STEPS) for j, share in enumerate(of_policy)}
    return {name: Figure(of_policy.mean(), Over.STEPS), **each}


def _figures(loss: Tensor, taken: Tensor, errors: SequenceErrors) -> dict[str, Figure]:
    """Of all policies together; ``taken`` [T, B, N]."""
    valid = errors.mask.unsqueeze(-1).to(taken.dtype)
    count = (errors.mask.sum() * taken.shape[2]).clamp(min=1)
    return {
        "trace_coefficient": Figure((errors.coefficients * valid).sum() / count, Over.STEPS),
        "q_loss": Figure(loss.detach(), Over.SEQUENCES),
        "q_mean_q": Figure((taken * valid).sum() / count, Over.STEPS),
        "q_max_abs_q": Figure((taken * valid).abs().amax(), Over.STEPS, largest=True),
        "q_abs_td": Figure((errors.td.abs() * valid).sum() / count, Over.STEPS),
    }
