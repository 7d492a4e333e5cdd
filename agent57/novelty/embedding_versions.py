"""Keeps a lane's embedding constant inside an episode while newer weights arrive.

NGU appendix: actors refresh the embedding once per episode, since an episodic memory must not mix states of
two embeddings. To keep acting batched, at most two versions are alive: lanes move to the newer one as their
episodes end, and the next version is admitted when the older has no lane left. Used by `lanes.py`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agent57.networks import EmbeddingNetwork
from agent57.state import Stateful


class EmbeddingVersions(Stateful):
    """Two embedding networks, and which of them each lane uses."""

    STATE = ("_networks", "_slot_of_lane", "_newest", "_waiting")

    def __init__(self, networks: tuple[EmbeddingNetwork, EmbeddingNetwork], num_lanes: int) -> None:
        self._networks = networks
        self._slot_of_lane = np.zeros(num_lanes, np.int64)
        self._newest = 0
        self._waiting: dict[str, Tensor] | None = None

    def offer(self, weights: dict[str, Tensor]) -> None:
        """Hand in the newest weights (a state dict); they are admitted at once or as soon as a slot is free."""
        self._waiting = {name: tensor.clone() for name, tensor in weights.items()}
        self._admit()

    def start_episodes(self, lanes: np.ndarray) -> None:
        """Move ``lanes`` (boolean [L]), whose episodes begin now, to the newest version."""
        self._slot_of_lane[lanes] = self._newest
        if self._admit():
            self._slot_of_lane[lanes] = self._newest

    def embed(self, observations: Tensor) -> Tensor:
        """f(x) of each lane under its own version, [L, *obs] -> [L, E]."""
        slots = np.unique(self._slot_of_lane)
        if len(slots) == 1:
            return self._networks[slots[0]](observations)
        in_second = torch.from_numpy(self._slot_of_lane == 1)
        first = self._networks[0](observations[~in_second])
        embeddings = first.new_empty(len(observations), first.shape[1])
        embeddings[~in_second] = first
        embeddings[in_second] = self._networks[1](observations[in_second])
        return embeddings

    def _admit(self) -> bool:
        older = 1 - self._newest
        if self._waiting is None or (self._slot_of_lane == older).any():
            return False
        self._networks[older].load_state_dict(self._waiting)
        self._waiting = None
        self._newest = older
        return True
