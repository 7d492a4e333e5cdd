"""The Q-network of one reward stream. Agent57 section 3.1 (one for each), R2D2 section 2.3 (LSTM, dueling heads)."""

from __future__ import annotations

from torch import Tensor

from agent57.config import NetworkConfig
from agent57.networks.recurrent import RecurrentNetwork, mlp_head
from agent57.structures import EnvironmentSpec


class QNetwork(RecurrentNetwork):
    """Q(x, a, j) of one reward stream, outputs [..., A]: torso -> LSTM that sees the policy j -> dueling heads."""

    def __init__(self, spec: EnvironmentSpec, num_policies: int, config: NetworkConfig) -> None:
        super().__init__(spec, num_policies, config)
        self.num_policies = num_policies
        self.value_head = mlp_head(config.lstm_size, config.head_size, 1)
        self.advantage_head = mlp_head(config.lstm_size, config.head_size, spec.num_actions)

    def heads(self, hidden: Tensor) -> Tensor:
        """Q-values [..., A]."""
        advantages = self.advantage_head(hidden)
        return self.value_head(hidden) + advantages - advantages.mean(-1, keepdim=True)
