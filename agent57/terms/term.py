"""What a term of the loss is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

import torch
from torch import Tensor

from agent57.config import LossConfig
from agent57.networks import Agent57Networks, RecurrentNetwork
from agent57.structures import SequenceBatch


class Over(Enum):
    """What a mean is taken over, by which the parts of a batch are weighed that several learners have."""

    SEQUENCES = auto()
    STEPS = auto()
    """Steps that count in the loss."""
    TRANSITIONS = auto()
    """The last transitions of each sequence (`Transitions`)."""


@dataclass(frozen=True)
class Figure:
    """A number to be shown, []: a mean ``over`` something, or the ``largest`` of it."""

    value: Tensor
    over: Over
    largest: bool = False


@dataclass(frozen=True)
class Term:
    """``loss`` [] with its gradients, a mean ``over`` something; ``figures`` by the names of their tags."""

    loss: Tensor
    over: Over
    figures: dict[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class Transitions:
    """n transitions: ``observations``, ``next_observations`` [n, *obs], ``actions`` int64 [n]."""

    observations: Tensor
    next_observations: Tensor
    actions: Tensor

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class Update:
    """One update: a batch as tensors, the networks that learn from it and their targets.

    ``betas``, ``discounts`` [N] are the policy family's; ``transitions`` the last ones of each sequence.
    ``sum_over_ranks`` adds up in place what every learner has of one batch. ``importance`` [B] says how much each
    sequence counts in the loss of the Q-networks; None: all alike. ``generator`` draws what chance decides; None:
    nothing.
    """

    networks: Agent57Networks
    target_networks: tuple[RecurrentNetwork, ...]
    batch: SequenceBatch[Tensor]
    transitions: Transitions
    betas: Tensor
    discounts: Tensor
    config: LossConfig
    sum_over_ranks: Callable[[Tensor], Tensor] = lambda sums: sums
    importance: Tensor | None = None
    generator: torch.Generator | None = None

    @property
    def sum_statistics(self) -> Callable[[Tensor], Tensor] | None:
        """``sum_over_ranks``, where the config divides by running scales; None where nobody wants their statistics."""
        wanted = self.config.normalize_td or self.config.normalize_intrinsic
        return self.sum_over_ranks if wanted else None


def mean_over_sequences(losses: Tensor, importance: Tensor | None) -> Tensor:
    """The mean of [..., B], each sequence times its importance."""
    return (losses if importance is None else losses * importance).mean(-1)


def last_transitions(batch: SequenceBatch[Tensor], count: int) -> Transitions:
    """The last ``count`` valid transitions of each sequence, fewer where one is shorter.

    NGU trains its embedding and its RND predictor on the last 5 steps of each sampled sequence.
    """
    t, b = last_valid(batch.mask, count)
    return Transitions(batch.observations[t, b], batch.observations[t + 1, b], batch.actions[t, b])


def last_valid(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Time and batch indices (t, b), each [n], of the last ``count`` valid steps of each column of ``mask`` [T, B]."""
    lengths = mask.sum(0)
    steps = torch.arange(mask.shape[0], device=mask.device).unsqueeze(1)
    t, b = torch.nonzero(mask & (steps >= lengths - count), as_tuple=True)
    return t, b
