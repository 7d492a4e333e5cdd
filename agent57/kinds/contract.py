"""What a kind of values is: how lanes act on its networks' outputs, and what an update and a priority make of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agent57.config import AgentConfig
from agent57.errors import SequenceErrors
from agent57.family import PolicyFamily
from agent57.scales import Scales
from agent57.structures import SequenceBatch
from agent57.terms.term import Term, Update


@dataclass(frozen=True)
class Choice:
    """Of one step of L lanes: ``q`` float32 [L, 2, A], Q^e and Q^i of each lane's own policy; its ``greedy`` actions,
    int64 [L]; and the ``values`` float32 [L, *] from which priorities are computed."""

    q: np.ndarray
    greedy: np.ndarray
    values: np.ndarray


class ValueKind:
    """A kind of values for one configuration; learner and lanes each make their own."""

    def __init__(self, agent: AgentConfig) -> None:
        self.agent = agent
        family = PolicyFamily.of(agent.family)
        self.betas = torch.tensor(family.betas, dtype=torch.float32)
        self.discounts = torch.tensor(family.discounts, dtype=torch.float32)

    @property
    def names(self) -> tuple[str, ...]:
        """Of its Q-networks, in their order: what metrics call them."""
        raise NotImplementedError

    def values_shape(self, num_actions: int) -> tuple[int, ...]:
        """Of `Choice.values`, without the lanes."""
        raise NotImplementedError

    def choose(self, outputs: list[Tensor], policy_index: np.ndarray) -> Choice:
        """From the networks' outputs of one step, [L, *] each, and the policies that the lanes play, int64 [L]."""
        raise NotImplementedError

    def priorities(self, values: Tensor, batch: SequenceBatch[Tensor], scales: Scales) -> Tensor:
        """Of new sequences, [B]: by the learner's function.

        The ``values`` [T+1, B, *] seen while acting stand for online and target networks alike.
        """
        raise NotImplementedError

    def term(self, update: Update) -> tuple[Term, SequenceErrors]:
        """The loss of the Q-networks, and the errors that it comes from."""
        raise NotImplementedError
