"""All networks of an agent together, and the form in which their weights travel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from agent57.config import NetworkConfig
from agent57.networks.novelty_networks import EmbeddingNetwork, RandomNetworkDistillation
from agent57.networks.q_network import QNetwork
from agent57.networks.recurrent import RecurrentNetwork
from agent57.networks.shared_network import SharedQNetwork
from agent57.scales import Scales
from agent57.structures import NET_NAMES, SHARED_NAMES, EnvironmentSpec


class Agent57Networks(nn.Module):
    """All that acting needs: the Q-networks, those of the novelty, and the learner's scales.

    ``config.kind`` says which Q-networks: ``q_ext`` and ``q_int``, each with its own reward (separate); ``q_ext``
    alone, which learns the mixed reward, so that all intrinsic Q-values count as 0 (single); or ``q``, that of all
    policies (shared).
    ``novelty`` makes networks by the names that they get here (`Novelty.modules`); by default NGU's two.
    ``scale_policies``: a scale of TD errors for each policy.
    """

    q: SharedQNetwork
    q_ext: QNetwork
    q_int: QNetwork | None
    embedding: EmbeddingNetwork
    rnd: RandomNetworkDistillation

    def __init__(
        self,
        spec: EnvironmentSpec,
        num_policies: int,
        config: NetworkConfig,
        novelty: Callable[[], dict[str, nn.Module]] | None = None,
        scale_policies: bool = False,
    ) -> None:
        super().__init__()
        shared = config.kind == "shared"
        self.scales = Scales(num_policies if scale_policies else None, SHARED_NAMES if shared else NET_NAMES)
        if shared:
            self.q = SharedQNetwork(spec, num_policies, config)
        else:
            self.q_ext = QNetwork(spec, num_policies, config)
            self.q_int = QNetwork(spec, num_policies, config) if config.kind == "separate" else None
        if novelty is None:
            self.embedding = EmbeddingNetwork(spec, config)
            self.rnd = RandomNetworkDistillation(spec, config)
        else:
            for name, module in novelty().items():
                self.add_module(name, module)

    @property
    def q_networks(self) -> tuple[RecurrentNetwork, ...]:
        """(extrinsic, intrinsic), or the only one."""
        names = ("q", "q_ext", "q_int")
        return tuple(network for name in names if (network := getattr(self, name, None)) is not None)


@torch.no_grad()
def flatten_weights(module: nn.Module) -> np.ndarray:
    """All parameters and buffers of ``module`` as one float32 vector: the form in which weights travel."""
    return torch.cat([tensor.detach().float().reshape(-1) for tensor in module.state_dict().values()]).cpu().numpy()


@torch.no_grad()
def load_flat_weights(module: nn.Module, vector: np.ndarray) -> None:
    """Copy a vector from `flatten_weights` into ``module``, cast to each tensor's own dtype and device.

    Raises ValueError if it was made from a module of another size.
    """
    tensors = list(module.state_dict().values())
    total = sum(tensor.numel() for tensor in tensors)
    if vector.shape != (total,):
        raise ValueError(f"expected {total} weights, got {vector.shape}")
    # One copy: vectors that come out of shared memory are read-only, and torch warns of those.
    flat = torch.from_numpy(vector if vector.flags.writeable else vector.copy())
    for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(values.view(tensor.shape))
