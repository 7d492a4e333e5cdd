"""NGU's intrinsic reward: episodic novelty from a k-NN memory, times life-long novelty from RND errors.

NGU section 2 and appendix (algorithm 1). r^i_t = r^episodic_t * clip(alpha_t, 1, L).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from agent57.config import AgentConfig
from agent57.networks import Agent57Networks, EmbeddingNetwork, ObservationNormalizer, RandomNetworkDistillation
from agent57.novelty.contract import Earned, LaneNovelty, Novelty, Part
from agent57.novelty.embedding_versions import EmbeddingVersions
from agent57.novelty.episodic_memory import EpisodicMemory
from agent57.novelty.lifelong import LifelongNovelty, rnd_errors
from agent57.state import Stateful
from agent57.terms.inverse_dynamics import inverse_dynamics
from agent57.terms.rnd import rnd


def combine(episodic: np.ndarray, alpha: np.ndarray, max_scale: float) -> np.ndarray:
    """r^i = r^episodic * clip(alpha, 1, L), [L]. NGU equation 1."""
    return episodic * np.clip(alpha, 1.0, max_scale)


class NGU(Novelty):
    """Both parts of the reward, or, with ``intrinsic.novelty`` "episodic", the episodic one alone (an ablation)."""

    parts = (
        Part("episodic", "episodic", by_revisit=True),
        Part("alpha", "life-long", around_one=True),
        Part("rnd_error"),
    )
    terms = (inverse_dynamics, rnd)

    def modules(self) -> dict[str, nn.Module]:
        network = self.agent.network
        return {
            "embedding": EmbeddingNetwork(self.spec, network),
            "rnd": RandomNetworkDistillation(self.spec, network),
        }

    def trained(self, networks: Agent57Networks) -> dict[str, nn.Module]:
        learned: dict[str, nn.Module] = (
            {"embedding": networks.embedding} if self.agent.intrinsic.embedding == "learned" else {}
        )
        return learned | {"rnd": networks.rnd.predictor}

    def learned(
        self, networks: Agent57Networks, arrived: Tensor, observe: Callable[[ObservationNormalizer, Tensor], None]
    ) -> None:
        observe(networks.rnd.normalizer, arrived)
        networks.embedding.normalizer.load_state_dict(networks.rnd.normalizer.state_dict())

    def lanes(self, networks: Agent57Networks, num_lanes: int) -> LaneNovelty:
        return NGULanes(self.agent, networks, num_lanes)

    def bytes_per_lane(self) -> float:
        return self.agent.intrinsic.memory_capacity * self.agent.network.embedding_size * 4.0


class NGULanes(Stateful, LaneNovelty):
    """An episodic memory for each lane, running moments of RND errors for all together."""

    STATE = ("_embeddings", "memory", "lifelong")

    def __init__(self, agent: AgentConfig, networks: Agent57Networks, num_lanes: int) -> None:
        self._config, self._networks = agent.intrinsic, networks
        versions = (copy.deepcopy(networks.embedding), copy.deepcopy(networks.embedding))
        self._embeddings = EmbeddingVersions(versions, num_lanes)
        self.memory = EpisodicMemory.of(agent, num_lanes)
        self.lifelong = LifelongNovelty(agent.intrinsic.error_horizon)

    def begin(self, lanes: np.ndarray) -> None:
        self.memory.reset(lanes)
        self._embeddings.start_episodes(lanes)

    def earn(self, observations: Tensor) -> Earned:
        episodic = self.memory.bonus(self._embeddings.embed(observations).cpu().numpy())
        errors = rnd_errors(self._networks, observations)
        parts = {"episodic": episodic, "alpha": errors, "rnd_error": errors}
        if np.isnan(errors).all():
            # Without life-long novelty the episodic part is all that there is.
            return Earned(episodic, parts)
        parts["alpha"] = alpha = self.lifelong.multiplier(errors)
        both = self._config.novelty == "both"
        return Earned(combine(episodic, alpha, self._config.max_lifelong_scale) if both else episodic, parts)

    def new_weights(self) -> None:
        self._embeddings.offer(self._networks.embedding.state_dict())

    def metrics(self) -> dict[str, float]:
        return {"actor/memory_entries": float(self.memory.sizes.mean())}

    def running_state(self) -> dict[str, Any]:
        return {"novelty": self.lifelong.state_dict(), **self.memory.running_average()}

    def load_running_state(self, state: dict[str, Any]) -> None:
        self.lifelong.load_state_dict(state["novelty"])
        self.memory.load_running_average(state)
