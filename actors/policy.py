"""One member of the policy family acting by itself, an observation at a time: what a trained agent is in use.

It is a lane of training (`lanes.py`) whose environment is the caller's, so rewards, networks and epsilon-greedy choice
are the same code. Exported agents are of this class (`exported_policy.py`).
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from actors.environments.contract import LaneEnvironments
from actors.environments.step import EnvironmentStep
from actors.lanes import Lanes
from agent57.config import AgentConfig
from agent57.family import PolicyFamily
from agent57.structures import EnvironmentSpec


class Policy:
    """Policy ``policy_index`` with probability ``epsilon`` of a random action; one episode after the other.

    Call `reset` when an episode begins, then `act` for every observation. ``weights`` are those of
    `agent57.networks.flatten_weights`; ``seed`` draws the random actions. Not thread-safe.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        agent: AgentConfig,
        weights: np.ndarray,
        policy_index: int,
        epsilon: float = 0.01,
        seed: int = 0,
    ) -> None:
        if not 0 <= policy_index < agent.family.num_policies:
            raise ValueError(f"policy_index must lie between 0 and {agent.family.num_policies - 1}")
        if not 0 <= epsilon <= 1:
            raise ValueError("epsilon must lie in [0, 1]")
        family = PolicyFamily.of(agent.family)
        self.spec, self.agent = spec, agent
        self.policy_index, self.epsilon = policy_index, epsilon
        self.beta, self.discount = float(family.betas[policy_index]), float(family.discounts[policy_index])
        self.intrinsic_reward = 0.0
        """r^i of the newest observation, unscaled."""
        self.q = np.zeros((2, spec.num_actions), np.float32)
        """Q^e and Q^i of every action at the newest observation, [2, A]."""
        self._handed = _HandedObservations(spec)
        # Of environments a single lane asks no more than this.
        self._lane = Lanes(agent, cast(LaneEnvironments, self._handed), np.array([epsilon]), seed)
        self._lane.set_weights(0, weights)

    @property
    def networks(self) -> Any:
        """The networks that act, an `Agent57Networks`."""
        return self._lane.networks

    def reset(self) -> None:
        """Begin an episode: forget the last one's recurrent state, memory and action."""
        self._lane.restart()

    def load_running_state(self, state: dict[str, Any]) -> None:
        """Take over running moments of novelty and of neighbour distances (`Lanes.running_state` of one lane)."""
        self._lane.load_running_state(state)

    def act(self, observation: np.ndarray, reward: float = 0.0) -> int:
        """The action to take on ``observation`` [*obs]; ``reward`` is what the action before it was paid.

        The networks read the reward, so leaving it out changes what they do. It is ignored at an episode's start.
        """
        self._handed.observations[0] = observation
        self._handed.rewards[0] = reward
        step = self._lane.step(lambda _: self.policy_index)
        self.intrinsic_reward, self.q = float(step.intrinsic_rewards[0]), step.q[0]
        return int(step.actions[0])


class _HandedObservations:
    """Stands for the lane's environment: what it returns are buffers that `Policy.act` fills before they are read."""

    def __init__(self, spec: EnvironmentSpec) -> None:
        self.spec = spec
        self.observations = np.zeros((1, *spec.observation_shape), spec.observation_dtype)
        self.rewards = np.zeros(1, np.float32)

    def reset(self) -> np.ndarray:
        return self.observations

    def step(self, actions: np.ndarray) -> EnvironmentStep:
        """The caller takes the action, and ends the episode with `Policy.reset`."""
        return EnvironmentStep(self.observations, self.rewards, np.zeros(1, np.bool_), np.zeros(1, np.bool_))
