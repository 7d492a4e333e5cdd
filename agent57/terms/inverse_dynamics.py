"""Controllable states: which action led from one observation to the next? NGU section 2."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from agent57.terms.term import Figure, Over, Term, Update


def inverse_dynamics(update: Update) -> Term:
    """Cross-entropy of the action between consecutive observations; trains the embedding network."""
    moves, network = update.transitions, update.networks.embedding
    both = network(torch.cat([moves.observations, moves.next_observations]))
    logits = network.action_logits(*both.chunk(2))
    loss = moves.mean(F.cross_entropy(logits, moves.actions, reduction="none"))
    accuracy = moves.mean((logits.argmax(-1) == moves.actions).float())
    figures = {
        "embedding_loss": Figure(loss.detach(), Over.TRANSITIONS),
        "embedding_accuracy": Figure(accuracy, Over.TRANSITIONS),
    }
    return Term(loss, Over.TRANSITIONS, figures)
