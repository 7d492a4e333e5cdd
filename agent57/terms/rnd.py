"""Random network distillation: the predictor learns the fixed network's outputs. Burda et al. 2018."""

from __future__ import annotations

from agent57.terms.term import Figure, Over, Term, Update


def rnd(update: Update) -> Term:
    """Mean squared prediction error of the observations that arrived; trains the predictor."""
    moves = update.transitions
    loss = moves.mean(update.networks.rnd(moves.next_observations))
    return Term(loss, Over.TRANSITIONS, {"rnd_error": Figure(loss.detach(), Over.TRANSITIONS)})
