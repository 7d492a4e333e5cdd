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
    """n transitions: ``observations``, ``next_observations`` [n, *obs], ``actions`` int64 [n].

    Of these, ``counted`` bool [n] says which there are; the others are copies, so that n does not depend on the data.
    """

    observations: Tensor
    next_observations: Tensor
    actions: Tensor
    counted: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """The mean of ``values`` [n], over those that count; []."""
        return (values * self.counted).sum() / self.counted.sum().clamp(min=1)


@dataclass(frozen=True)
class Update:
    """One update: a batch as tensors, the networks that learn from it and their targets.

    ``betas``, ``discounts`` [N] are the policy family's; ``transitions`` the last ones of each sequence.
    ``sum_over_ranks`` adds up in place what every learner has of one batch. ``importance`` [B] says how much each
    sequence counts in the loss of the Q-networks; None: all alike. ``draws`` [branches, B] of each Q-network
    decide what its torso leaves out of each sequence (`DropsBranch`); None: nothing.
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
    draws: tuple[Tensor | None, ...] = (None, None)

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
    t, b, counted = last_valid(batch.mask, count)
    return Transitions(batch.observations[t, b], batch.observations[t + 1, b], batch.actions[t, b], counted)


def last_valid(mask: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Time and batch indices (t, b) of the last ``count`` valid steps of each column of ``mask`` [T, B], each [n].

    A column's valid steps come first. Where it has fewer than ``count`` its first step stands for those that are
    missing, and the third [n], bool, says that they do not count: so n is the same whatever the mask.
    """
    count, columns = min(count, mask.shape[0]), mask.shape[1]
    steps = mask.sum(0) - torch.arange(count, 0, -1, device=mask.device).unsqueeze(1)
    b = torch.arange(columns, device=mask.device).expand(count, columns)
    return steps.clamp(min=0).flatten(), b.flatten(), (steps >= 0).flatten()
