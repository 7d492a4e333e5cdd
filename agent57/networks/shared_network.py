"""One network for the values of all policies. MEME section 4 B2, C2 (one torso and LSTM), D (the policy head)."""

from __future__ import annotations

import torch
from torch import Tensor

from agent57.config import NetworkConfig
from agent57.networks.recurrent import RecurrentNetwork, mlp_head
from agent57.structures import EnvironmentSpec

POLICY = 2
"""Where the policy's logits stand among the outputs, behind `EXTRINSIC` and `INTRINSIC`."""


class SharedQNetwork(RecurrentNetwork):
    """Q^e_j, Q^i_j and, with a policy head, the logits of pi_j, for all N policies: outputs [..., 2 or 3, N, A].

    The policy index is no input, so the recurrent state is the same whichever policy plays, and one unroll serves all.
    The policy head reads the LSTM's output behind a stopped gradient: it follows the values and does not shape them.
    """

    def __init__(self, spec: EnvironmentSpec, num_policies: int, config: NetworkConfig) -> None:
        super().__init__(spec, 0, config)
        self.num_policies = num_policies
        values = 2 * num_policies
        self.value_head = mlp_head(config.lstm_size, config.head_size, values)
        self.advantage_head = mlp_head(config.lstm_size, config.head_size, values * spec.num_actions)
        self.policy_head = (
            mlp_head(config.lstm_size, config.head_size, num_policies * spec.num_actions)
            if config.policy_head
            else None
        )

    def heads(self, hidden: Tensor) -> Tensor:
        """Q^e, Q^i and, if there is a policy head, its logits: [..., 2 or 3, N, A]."""
        advantages = self.advantage_head(hidden).unflatten(-1, (2, self.num_policies, self.num_actions))
        values = self.value_head(hidden).unflatten(-1, (2, self.num_policies, 1))
        q = values + advantages - advantages.mean(-1, keepdim=True)
        if self.policy_head is None:
            return q
        logits = self.policy_head(hidden.detach()).unflatten(-1, (1, self.num_policies, self.num_actions))
        return torch.cat([q, logits], -3)
