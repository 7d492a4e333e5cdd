"""One member of the policy family acting by itself, an observation at a time: what a trained agent is in use.

Agent57 section 3: the same rewards, networks and epsilon-greedy choice as in a lane of training (`actors/lanes.py`,
whose steps a test compares), but the environment is the caller's. Exported agents are of this class
(`actors/exported_policy.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from agent57.config import AgentConfig
from agent57.intrinsic_reward import EpisodicMemory, LifelongNovelty, combine
from agent57.losses import both_networks
from agent57.networks import Agent57Networks
from agent57.policy_family import PolicyFamily
from agent57.rescaling import combine_q
from agent57.structures import EXTRINSIC, INTRINSIC, NO_ACTION, EnvironmentSpec


class Policy:
    """Policy ``policy_index`` with probability ``epsilon`` of a random action; one episode after the other.

    Call `reset` when an episode begins, then `act` for every observation. Not thread-safe. ``networks`` are used as
    they are, not copied.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        agent: AgentConfig,
        networks: Agent57Networks,
        policy_index: int,
        epsilon: float = 0.01,
        seed: int = 0,
    ) -> None:
        if not 0 <= policy_index < agent.family.num_policies:
            raise ValueError(f"policy_index must lie between 0 and {agent.family.num_policies - 1}")
        if not 0 <= epsilon <= 1:
            raise ValueError("epsilon must lie in [0, 1]")
        family = PolicyFamily(**vars(agent.family))
        self.spec, self.agent, self.networks = spec, agent, networks.requires_grad_(False)
        self.policy_index, self.epsilon = policy_index, epsilon
        self.beta, self.discount = float(family.betas[policy_index]), float(family.discounts[policy_index])
        self.intrinsic_reward = 0.0
        """r^i of the newest observation, unscaled."""
        self.q = np.zeros((2, spec.num_actions), np.float32)
        """Q^e and Q^i of every action at the newest observation, [2, A]."""
        intrinsic = agent.intrinsic
        self.memory = EpisodicMemory(
            1,
            intrinsic.memory_capacity,
            agent.network.embedding_size,
            intrinsic.num_neighbours,
            intrinsic.kernel_epsilon,
            intrinsic.cluster_distance,
            intrinsic.pseudo_count,
            intrinsic.max_similarity,
            intrinsic.distance_decay,
        )
        self.novelty = LifelongNovelty(intrinsic.error_horizon)
        self._rng = np.random.default_rng(seed)
        self.reset()

    def reset(self) -> None:
        """Begin an episode: forget the last one's recurrent state, memory and action."""
        self.memory.reset([0])
        self._previous_action = NO_ACTION
        self._recurrent = torch.zeros(2, 2, 1, self.agent.network.lstm_size)

    def load_running_state(self, state: dict[str, Any]) -> None:
        """Take over running moments of novelty and of neighbour distances (`Lanes.running_state` of one lane)."""
        self.novelty.moments.load_state_dict(state["novelty"])
        memory = self.memory.state_dict()
        self.memory.load_state_dict(memory | {key: state[key] for key in ("distance_sum", "distance_weight")})

    @torch.no_grad()
    def act(self, observation: np.ndarray, reward: float = 0.0) -> int:
        """The action to take on ``observation`` [*obs]; ``reward`` is what the action before it was paid.

        The networks read the reward, so leaving it out changes what they do. It is ignored at an episode's start.
        """
        first = self._previous_action == NO_ACTION
        observations = torch.from_numpy(np.ascontiguousarray(observation, self.spec.observation_dtype)).unsqueeze(0)
        self.intrinsic_reward = self._novelty_of(observations, first)
        inputs = (
            torch.tensor([self._previous_action]),
            torch.tensor([0.0 if first else reward], dtype=torch.float32),
            torch.tensor([self.intrinsic_reward], dtype=torch.float32) / self.networks.intrinsic_scale,
            torch.tensor([self.policy_index]),
        )
        values = []
        for net, network in enumerate(self.networks.q_networks):
            state = (self._recurrent[net, 0].clone(), self._recurrent[net, 1].clone())
            q, (self._recurrent[net, 0], self._recurrent[net, 1]) = network.step(observations, *inputs, state)
            values.append(q)
        q = both_networks(values)[:, 0]
        self.q = q.numpy()
        loss = self.agent.loss
        beta = torch.tensor(self.beta, dtype=torch.float32)
        combined = combine_q(q[EXTRINSIC], q[INTRINSIC], beta, loss.mix, loss.rescale_epsilon)
        greedy = int(combined.argmax())
        explores = self._rng.random() < self.epsilon
        action = int(self._rng.integers(self.spec.num_actions)) if explores else greedy
        self._previous_action = action
        return action

    def _novelty_of(self, observations: torch.Tensor, first: bool) -> float:
        """r^i of what just arrived, [1, *obs]; 0 at an episode's start."""
        episodic = self.memory.bonus(self.networks.embedding(observations).numpy())
        intrinsic = self.agent.intrinsic
        if float(self.networks.rnd.normalizer.count) == 0:
            alpha, errors = np.ones(1, np.float32), np.full(1, np.nan, np.float32)
        else:
            errors = self.networks.rnd(observations).numpy()
            alpha = self.novelty.multiplier(errors)
        if intrinsic.novelty == "both":
            reward = combine(episodic, alpha, intrinsic.max_lifelong_scale)
        elif intrinsic.novelty == "episodic":
            reward = episodic
        else:
            reward = self.novelty.scaled(errors)
        return 0.0 if first else float(reward[0])
