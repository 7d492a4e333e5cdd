"""A network each for extrinsic and intrinsic rewards (Agent57 section 3.1), or one for both (NGU section 3)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from agent57.errors import SequenceErrors, both_networks, sequence_errors
from agent57.kinds.contract import Choice, ValueKind
from agent57.scales import Scales
from agent57.structures import NET_NAMES, SequenceBatch
from agent57.terms.q_td import q_td
from agent57.terms.term import Term, Update
from agent57.values import greedy_actions


class Separate(ValueKind):
    """Greedy by the combined Q; a policy learns from the sequences that it played."""

    @property
    def names(self) -> tuple[str, ...]:
        return NET_NAMES[:1] if self.agent.network.kind == "single" else NET_NAMES

    def values_shape(self, num_actions: int) -> tuple[int, ...]:
        return 2, num_actions

    def choose(self, outputs: list[Tensor], policy_index: np.ndarray) -> Choice:
        q = both_networks(outputs).cpu().numpy()
        beta = self.betas.numpy()[policy_index][:, np.newaxis]
        loss = self.agent.loss
        of_lanes = q.swapaxes(0, 1)
        return Choice(of_lanes, greedy_actions(q, beta, loss.mix, loss.rescale_epsilon), of_lanes)

    def priorities(self, values: Tensor, batch: SequenceBatch[Tensor], scales: Scales) -> Tensor:
        q = values.movedim(2, 0)
        single = self.agent.network.kind == "single"
        return sequence_errors(
            q, q, batch, self.betas, self.discounts, scales, self.agent.loss, single=single
        ).priorities

    def term(self, update: Update) -> tuple[Term, SequenceErrors]:
        return q_td(update)
