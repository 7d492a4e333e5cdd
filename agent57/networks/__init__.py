"""The networks: Q-networks (two, or one for all policies), and those of the novelty beside them."""

from __future__ import annotations

from agent57.networks.all_networks import Agent57Networks, flatten_weights, load_flat_weights
from agent57.networks.novelty_networks import (
    EmbeddingNetwork,
    ObservationNormalizer,
    RandomNetworkDistillation,
    moments,
)
from agent57.networks.q_network import QNetwork
from agent57.networks.recurrent import RecurrentNetwork, RecurrentState
from agent57.networks.shared_network import SharedQNetwork

__all__ = [
    "Agent57Networks",
    "EmbeddingNetwork",
    "ObservationNormalizer",
    "QNetwork",
    "RandomNetworkDistillation",
    "RecurrentNetwork",
    "RecurrentState",
    "SharedQNetwork",
    "flatten_weights",
    "load_flat_weights",
    "moments",
]
