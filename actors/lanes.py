"""Steps L lanes together: intrinsic rewards, both Q-networks, epsilon-greedy actions, environments.

Agent57 section 3 and appendix, NGU section 2. A lane is what the paper calls an actor: one environment with
its own epsilon, policy index, recurrent states and episodic memory; here L of them share batched forward
passes. Used by the rollout worker (`rollout.py`) and the evaluator (`evaluator.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.environments.contract import LaneEnvironments
from agent57.config import AgentConfig
from agent57.kinds import kind_of
from agent57.networks import load_flat_weights
from agent57.novelty import make_networks, novelty_of
from agent57.state import Stateful
from agent57.structures import NO_ACTION, SequenceSpec, Steps
from agent57.torsos import resolve_torso_dtype, set_torso_dtype


@dataclass(kw_only=True)
class LaneStep(Steps[np.ndarray]):
    """Step t of every lane, by the step convention of `agent57/structures.py`; per-step fields [L].

    ``observations`` [L, *obs]; ``q`` float32 [L, 2, A] (extrinsic, intrinsic) of the policy that plays; ``values``
    float32 [L, *] are what priorities need (`Choice`); ``recurrent_state`` float32 [nets, 2, L, H] before the step.
    ``starts``: the observation is an episode's first; ``ends``: it is its final one, so the action is never taken;
    ``terminated``: it is terminal. ``parts`` are those of ``intrinsic_rewards`` by name (`Novelty.parts`), [L] each,
    NaN where not known. ``revisits`` bool [L]: the environment says that it was in this state before in this
    episode; None where it does not say.
    """

    observations: np.ndarray
    policy_index: np.ndarray
    recurrent_state: np.ndarray
    q: np.ndarray
    values: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    terminated: np.ndarray
    parts: dict[str, np.ndarray]
    revisits: np.ndarray | None = None


class Lanes(Stateful):
    """All state of L lanes; `step` advances every lane by one observation.

    Environments reset on the step after an episode's end: that step's action is ignored, and what arrives is
    the next episode's first observation, which is no transition. An episode that broke off by a fault of its
    environment has no end: the next one just starts. Not thread-safe.
    """

    STATE = (
        "networks",
        "novelty",
        "environments",
        "weights_version",
        "policy_index",
        "_observations",
        "_previous_actions",
        "_extrinsic_rewards",
        "_starts",
        "_ends",
        "_terminated",
        "_revisits",
        "_again",
        "_recurrent",
        "_rng",
    )

    def __init__(
        self,
        agent: AgentConfig,
        environments: LaneEnvironments,
        epsilons: np.ndarray,
        seed: int,
        torso_dtype: str = "float32",
        device: str = "cpu",
    ) -> None:
        self.agent, self.environments, self.epsilons = agent, environments, epsilons
        self.num_lanes = len(epsilons)
        self.device = torch.device(device)
        self.weights_version = -1
        self._rng = np.random.default_rng(seed)
        self.kind = kind_of(agent)
        self.sequences = SequenceSpec.of(agent, environments.spec)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = make_networks(agent, environments.spec)
        dtype = resolve_torso_dtype(torso_dtype, self.device)
        set_torso_dtype(networks, dtype, cast_weights=dtype != torch.float32)
        self.networks = networks.to(self.device).requires_grad_(False)
        novelty = novelty_of(agent, environments.spec)
        self.parts, self.novelty = novelty.parts, novelty.lanes(self.networks, self.num_lanes)
        self.policy_index = np.zeros(self.num_lanes, np.int64)
        self.restart()

    def restart(self) -> None:
        """Abandon all episodes and begin new ones."""
        lanes = self.num_lanes
        self._observations = self.environments.reset()
        self._previous_actions = np.full(lanes, NO_ACTION, np.int64)
        self._extrinsic_rewards = np.zeros(lanes, np.float32)
        self._starts = np.ones(lanes, np.bool_)
        self._ends = np.zeros(lanes, np.bool_)
        self._terminated = np.zeros(lanes, np.bool_)
        self._revisits: np.ndarray | None = None
        # Lanes whose episode broke off by a fault: the next one plays the same policy, so that none is passed over.
        self._again = np.zeros(lanes, np.bool_)
        nets, parts, width = self.sequences.state_shape
        self._recurrent = torch.zeros(nets, parts, lanes, width, device=self.device)

    def set_weights(self, version: int, vector: np.ndarray) -> None:
        """Act with these weights (see `flatten_weights`) from the next step on."""
        load_flat_weights(self.networks, vector)
        self.novelty.new_weights()
        self.weights_version = version

    @torch.inference_mode()
    def step(self, choose_policy: Callable[[int], int]) -> LaneStep:
        """Act once in every lane; ``choose_policy(lane)`` names the policy of each episode that begins now."""
        if self._starts.any():
            self._begin_episodes(choose_policy)
        # Once for all five networks.
        observations = self.networks.q_networks[0].torso.arrange(torch.from_numpy(self._observations).to(self.device))
        earned = self.novelty.earn(observations)
        intrinsic_rewards = np.where(self._starts, np.float32(0), earned.rewards)
        recurrent = self._recurrent
        outputs, self._recurrent = self._outputs(observations, intrinsic_rewards, recurrent)
        choice = self.kind.choose(outputs, self.policy_index)
        actions, behaviour_probs = self._explore(choice.greedy)
        taken = LaneStep(
            observations=self._observations,
            previous_actions=self._previous_actions,
            extrinsic_rewards=self._extrinsic_rewards,
            intrinsic_rewards=intrinsic_rewards,
            policy_index=self.policy_index.copy(),
            recurrent_state=recurrent.cpu().numpy(),
            q=choice.q,
            values=choice.values,
            actions=actions,
            behaviour_probs=behaviour_probs,
            starts=self._starts,
            ends=self._ends,
            terminated=self._terminated,
            parts=earned.parts,
            revisits=self._revisits,
        )
        arrived = self.environments.step(actions)
        self._observations = arrived.observations
        self._previous_actions = actions
        self._extrinsic_rewards = arrived.rewards
        self._starts = taken.ends
        if arrived.abandoned is not None:
            self._again = arrived.abandoned & ~taken.ends
            self._starts = taken.ends | arrived.abandoned
        self._ends = arrived.terminated | arrived.truncated
        self._terminated = arrived.terminated
        self._revisits = arrived.revisits
        return taken

    def _begin_episodes(self, choose_policy: Callable[[int], int]) -> None:
        starts = self._starts
        for lane in np.flatnonzero(starts & ~self._again):
            self.policy_index[lane] = choose_policy(int(lane))
        self._again[:] = False
        self._previous_actions = np.where(starts, NO_ACTION, self._previous_actions)
        self._extrinsic_rewards = np.where(starts, np.float32(0), self._extrinsic_rewards)
        self._recurrent = self._recurrent * torch.from_numpy(~starts).to(self.device).view(1, 1, -1, 1)
        self.novelty.begin(starts)

    def _outputs(
        self, observations: Tensor, intrinsic_rewards: np.ndarray, recurrent: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """(what each Q-network says, [L, *], recurrent states after the step [nets, 2, L, H])."""
        previous_actions, extrinsic_rewards, rewards, policy_index = (
            torch.from_numpy(array).to(self.device)
            for array in (self._previous_actions, self._extrinsic_rewards, intrinsic_rewards, self.policy_index)
        )
        inputs = (previous_actions, extrinsic_rewards, self.networks.scales.rewards(rewards), policy_index)
        outputs: list[Tensor] = []
        states: list[Tensor] = []
        for network, (h, c) in zip(self.networks.q_networks, recurrent, strict=False):
            output, state = network.step(observations, *inputs, (h, c))
            outputs.append(output)
            states += state
        # A single network leaves the other one's state as it began: zeros.
        return outputs, torch.stack([*states, *recurrent.flatten(0, 1)[len(states) :]]).view_as(recurrent)

    def _explore(self, greedy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(epsilon-greedy actions int64 [L], their behaviour probabilities float32 [L]) from greedy ones [L].

        A random draw may be the greedy action, so mu comes from the full epsilon-greedy distribution.
        """
        num_actions = self.sequences.environment.num_actions
        explores = self._rng.random(self.num_lanes) < self.epsilons
        actions = np.where(explores, self._rng.integers(num_actions, size=self.num_lanes), greedy)
        probs = self.epsilons / num_actions + (1 - self.epsilons) * (actions == greedy)
        return actions, probs.astype(np.float32)

    def running_state(self) -> dict[str, Any]:
        """The small part of the state that outlives episodes: running moments of novelty."""
        return self.novelty.running_state()

    def load_running_state(self, state: dict[str, Any]) -> None:
        """Take over another life's running moments, e.g. those of the worker that this one replaces."""
        self.novelty.load_running_state(state)
