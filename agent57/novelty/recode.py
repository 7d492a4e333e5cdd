"""RECODE's intrinsic reward: counts of controllable states over all episodes, in one memory. Saade et al. 2023.

It takes the place of NGU's two parts: no RND, and nothing that an episode's end empties.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from agent57.config import AgentConfig
from agent57.networks import Agent57Networks, EmbeddingNetwork, ObservationNormalizer
from agent57.novelty.contract import Earned, LaneNovelty, Novelty, Part
from agent57.novelty.count_memory import CountMemory
from agent57.novelty.moments import RunningMoments
from agent57.state import Stateful
from agent57.terms.inverse_dynamics import inverse_dynamics

__all__ = ["CountMemory", "Recode"]


class Recode(Novelty):
    """r^i = the memory's bonus over its running standard deviation.

    A memory of fewer atoms than neighbours are asked for pays nothing yet: all is new to it, and its first bonuses
    would own the standard deviation.
    """

    parts = (Part("count_bonus", "count bonus", by_revisit=True),)
    terms = (inverse_dynamics,)

    def modules(self) -> dict[str, nn.Module]:
        return {"embedding": EmbeddingNetwork(self.spec, self.agent.network)}

    def trained(self, networks: Agent57Networks) -> dict[str, nn.Module]:
        return {"embedding": networks.embedding} if self.agent.intrinsic.embedding == "learned" else {}

    def learned(
        self, networks: Agent57Networks, arrived: Tensor, observe: Callable[[ObservationNormalizer, Tensor], None]
    ) -> None:
        observe(networks.embedding.normalizer, arrived)

    def lanes(self, networks: Agent57Networks, num_lanes: int) -> LaneNovelty:
        return _RecodeLanes(self.agent, networks)

    def bytes_per_worker(self) -> float:
        # Atoms and counts; distances to all of them, of some lanes at a time, come and go.
        return self.agent.intrinsic.atoms * (4.0 * self.agent.network.embedding_size + 8.0)


class _RecodeLanes(Stateful, LaneNovelty):
    STATE = ("memory", "_mean", "_variance", "_paid")
    RECENT, FEWEST = 1 / 8, 1000
    """The standard deviation of the bonus runs over this share of the lane steps so far, and over this many at least:
    where all is new, a few bonuses are many times those that follow."""

    LEAST_SPREAD = 0.1
    """Of the mean: the smallest standard deviation that is believed."""

    def __init__(self, agent: AgentConfig, networks: Agent57Networks) -> None:
        self._networks, self._neighbours = networks, min(agent.intrinsic.num_neighbours, agent.intrinsic.atoms)
        self.memory = CountMemory.of(agent)
        self._mean = self._variance = self._paid = 0.0

    def earn(self, observations: Tensor) -> Earned:
        young = self.memory.size < self._neighbours
        bonus = self.memory.bonus(self._networks.embedding(observations).cpu().numpy())
        if young:
            return Earned(np.zeros_like(bonus), {"count_bonus": bonus})
        self._count(bonus)
        # Where the bonus hardly varies, dividing by how little it does would make much of nothing.
        scale = max(self._variance**0.5, self.LEAST_SPREAD * self._mean)
        return Earned(bonus / np.float32(scale), {"count_bonus": bonus})

    def _count(self, bonus: np.ndarray) -> None:
        self._paid += len(bonus)
        horizon = min(self._paid, max(self.RECENT * self._paid, self.FEWEST))
        moments = RunningMoments(self._mean, self._variance)
        moments.add(float(bonus.mean()), float(bonus.var()), min(1.0, len(bonus) / horizon))
        self._mean, self._variance = moments.mean, moments.variance

    def metrics(self) -> dict[str, float]:
        return {"actor/atoms": float(self.memory.size), "actor/atom_visits": float(self.memory.counts.sum())}

    def running_state(self) -> dict[str, Any]:
        return {"mean": self._mean, "variance": self._variance, "paid": self._paid}

    def load_running_state(self, state: dict[str, Any]) -> None:
        self._mean, self._variance, self._paid = (float(state[name]) for name in ("mean", "variance", "paid"))
