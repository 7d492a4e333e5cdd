"""One network for the values of all policies, and perhaps a policy head. MEME section 4 B2, C2, D."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agent57.all_policies import all_policy_errors, combined_q
from agent57.errors import SequenceErrors
from agent57.kinds.contract import Choice, ValueKind
from agent57.networks.shared_network import POLICY
from agent57.scales import Scales
from agent57.structures import SHARED_NAMES, SequenceBatch
from agent57.terms.all_policies_td import all_policies_td
from agent57.terms.term import Term, Update


class Shared(ValueKind):
    """Greedy by the policy head, or without one by the combined Q; every policy learns from every sequence."""

    @property
    def names(self) -> tuple[str, ...]:
        return SHARED_NAMES

    def values_shape(self, num_actions: int) -> tuple[int, ...]:
        return 2 if self.agent.network.policy_head else 1, self.agent.family.num_policies, num_actions

    def choose(self, outputs: list[Tensor], policy_index: np.ndarray) -> Choice:
        (output,) = outputs
        combined = combined_q(output, self.betas.to(output.device)).unsqueeze(1)
        # Combined values first, then the logits, if there is a policy head: the last are what is acted on.
        values = torch.cat([combined, output[:, POLICY:]], 1).cpu().numpy()
        lanes = np.arange(len(policy_index))
        q = output[:, :POLICY].cpu().numpy()[lanes, :, policy_index]
        return Choice(q, values[lanes, -1, policy_index].argmax(-1), values)

    def priorities(self, values: Tensor, batch: SequenceBatch[Tensor], scales: Scales) -> Tensor:
        q, logits = values[:, :, 0], values[:, :, 1] if values.shape[2] > 1 else None
        return all_policy_errors(q, q, logits, batch, self.betas, self.discounts, scales, self.agent.loss).priorities

    def term(self, update: Update) -> tuple[Term, SequenceErrors]:
        return all_policies_td(update)
