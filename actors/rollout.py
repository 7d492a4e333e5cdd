"""A rollout worker: lanes that play with the policies they are told, and hand out prioritized sequences.

Agent57 appendix ("Distributed setting"); priorities of new sequences come from the learner's own functions
on the Q-values seen while acting (R2D2 section 2.3). The supervisor sends it requests, through
`cluster/on_ray/remotes.py` or inline in the serial mode.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import torch

from actors.config import ActorConfig
from actors.environments.contract import EnvironmentConfig, LaneEnvironments
from actors.lanes import Lanes, LaneStep
from actors.sequence_builder import BuiltSequence, SequenceBuilder
from agent57.config import AgentConfig
from agent57.family import lane_epsilons
from agent57.novelty.contract import Part
from agent57.state import Stateful
from agent57.structures import EnvironmentSpec, Sequence, fill_columns, padded_batch


@dataclass(frozen=True)
class Episode:
    """One episode as it was really played; ``lane`` counts over the whole run.

    ``new_states``: how many different states it visited, if the environment tells revisits apart. ``cut``: it had not
    ended, but was long enough for an evaluation.
    """

    lane: int
    policy_index: int
    epsilon: float
    extrinsic_return: float
    intrinsic_return: float
    length: int
    new_states: int | None = None
    cut: bool = False


class EpisodeTally(Stateful):
    """Adds up the episodes that L lanes are playing; workers and evaluators call it once per step."""

    STATE = ("returns", "lengths", "new_states")

    def __init__(self, num_lanes: int) -> None:
        self.returns = np.zeros((num_lanes, 2))
        self.lengths = np.zeros(num_lanes, np.int64)
        self.new_states = np.zeros(num_lanes, np.int64)

    def add(self, step: LaneStep, first_lane: int, epsilons: np.ndarray, max_steps: int | None = None) -> list[Episode]:
        """Count step t (returns are undiscounted, of what arrived); hands out the episodes that it ended.

        One that reaches ``max_steps`` is handed out too, although its environment plays on.
        """
        self.returns[step.starts], self.lengths[step.starts], self.new_states[step.starts] = 0, 0, 1
        moved = ~step.starts
        self.returns[moved, 0] += step.extrinsic_rewards[moved]
        self.returns[moved, 1] += step.intrinsic_rewards[moved]
        self.lengths[moved] += 1
        if step.revisits is not None:
            self.new_states += moved & ~step.revisits
        cut = self.lengths == max_steps if max_steps is not None else np.zeros_like(step.ends)
        return [
            Episode(
                lane=first_lane + int(lane),
                policy_index=int(step.policy_index[lane]),
                epsilon=float(epsilons[lane]),
                extrinsic_return=float(self.returns[lane, 0]),
                intrinsic_return=float(self.returns[lane, 1]),
                length=int(self.lengths[lane]),
                new_states=None if step.revisits is None else int(self.new_states[lane]),
                cut=bool(cut[lane] and not step.ends[lane]),
            )
            for lane in np.flatnonzero(step.ends | cut)
        ]


@dataclass
class Rollout:
    """What a request yielded. ``new_steps`` int64 [n] and ``priorities`` float32 [n] belong to ``sequences``.

    ``env_steps`` counts transitions (resets are none). ``metrics`` are means over the request.
    ``arms_left`` [L]: how many prefetched policies each lane still holds. ``intrinsic_rewards`` float32 [n]: r^i of
    what arrived with the last step. ``faults``: see `LaneEnvironments.take_faults`.
    """

    sequences: list[Sequence]
    priorities: np.ndarray
    new_steps: np.ndarray
    env_steps: int
    episodes: list[Episode]
    metrics: dict[str, float]
    arms_left: list[int]
    weights_version: int
    intrinsic_rewards: np.ndarray
    faults: list[str]


class RolloutWorker(Stateful):
    """L lanes of one process, lanes ``first_lane``.. of ``total_lanes`` in the run.

    ``reproducible`` environments make `state_dict` complete, at the price of slower resets (serial mode). ``life``
    tells this worker from those before it at the same lanes, which failed or belong to an earlier session: each life
    has random numbers and episodes of its own.
    """

    STATE = ("lanes", "_builder", "_arms", "_episodes")

    def __init__(
        self,
        env_id: str,
        agent: AgentConfig,
        actor: ActorConfig,
        environment: EnvironmentConfig,
        first_lane: int,
        num_lanes: int,
        total_lanes: int,
        seed: int,
        reproducible: bool = False,
        device: str = "cpu",
        life: int = 0,
    ) -> None:
        self.agent, self.actor, self.first_lane, self.num_lanes = agent, actor, first_lane, num_lanes
        lanes_seed, environments_seed = np.random.SeedSequence([seed, first_lane, life]).generate_state(2)
        environments = LaneEnvironments(env_id, num_lanes, int(environments_seed), environment, reproducible)
        epsilons = lane_epsilons(total_lanes, actor.epsilon_base, actor.epsilon_alpha)
        self.lanes = Lanes(
            agent,
            environments,
            epsilons[first_lane : first_lane + num_lanes],
            int(lanes_seed),
            actor.torso_dtype,
            device,
        )
        self.spec = environments.spec
        shape = self.lanes.kind.values_shape(self.spec.num_actions)
        self._builder = SequenceBuilder(self.lanes.sequences, agent.sequence.replay_period, num_lanes, shape)
        self._arms: list[deque[int]] = [deque() for _ in range(num_lanes)]
        self._episodes = EpisodeTally(num_lanes)
        self._reused_arms = 0

    def set_weights(self, version: int, vector: np.ndarray) -> None:
        """Act with these weights from the next step on."""
        self.lanes.set_weights(version, vector)

    def rollout(self, num_steps: int, arms: list[list[int]]) -> Rollout:
        """Act ``num_steps`` times in every lane.

        ``arms[l]`` is appended to the policies that lane l plays next, one per episode. A lane that runs out
        plays its last policy again, which counts as a pull of that policy.
        """
        for queue, more in zip(self._arms, arms, strict=True):
            queue.extend(more)
        built: list[BuiltSequence] = []
        episodes: list[Episode] = []
        tally = _Tally(self.lanes.parts)
        self._reused_arms = 0
        start = time.perf_counter()
        for _ in range(num_steps):
            step = self.lanes.step(self._next_arm)
            built += self._builder.append(step)
            episodes += self._episodes.add(step, self.first_lane, self.lanes.epsilons)
            tally.add(step)
        acting_seconds = time.perf_counter() - start
        priorities = self._priorities(built)
        env_steps = tally.transitions
        metrics = tally.means() | {
            "actor/reused_arms": float(self._reused_arms),
            "actor/acting_seconds": acting_seconds,
            "actor/priority_seconds": time.perf_counter() - start - acting_seconds,
        }
        metrics |= self.lanes.novelty.metrics()
        return Rollout(
            sequences=[item.sequence for item in built],
            priorities=priorities,
            new_steps=np.array([item.new_steps for item in built], np.int64),
            env_steps=env_steps,
            episodes=episodes,
            metrics=metrics,
            arms_left=[len(queue) for queue in self._arms],
            weights_version=self.lanes.weights_version,
            intrinsic_rewards=step.intrinsic_rewards[~step.starts],
            faults=self.lanes.environments.take_faults(),
        )

    def _next_arm(self, lane: int) -> int:
        if self._arms[lane]:
            return self._arms[lane].popleft()
        self._reused_arms += 1
        return int(self.lanes.policy_index[lane])

    @torch.no_grad()
    def _priorities(self, built: list[BuiltSequence]) -> np.ndarray:
        """Initial priorities [n], with the acting Q-values standing for online and target networks alike."""
        if not built:
            return np.zeros(0, np.float32)
        # Observations are not needed: a width of 0.
        blind = EnvironmentSpec((0,), "float32", 1.0, self.spec.num_actions)
        batch = padded_batch(replace(self.lanes.sequences, environment=blind), len(built))
        steps, columns = fill_columns(batch, [item.sequence for item in built])
        values = np.zeros((*batch.actions.shape, *built[0].values.shape[1:]), np.float32)
        values[steps, columns] = np.concatenate([item.values for item in built])
        scales = self.lanes.networks.scales.on_cpu()
        return self.lanes.kind.priorities(torch.from_numpy(values), batch.to_torch(), scales).numpy()


class _Tally:
    """What the steps of a request said of novelty, for its metrics; added up once, at the end of the request."""

    def __init__(self, parts: tuple[Part, ...]) -> None:
        self._parts = parts
        self._steps: list[LaneStep] = []

    def add(self, step: LaneStep) -> None:
        self._steps.append(step)

    @property
    def transitions(self) -> int:
        return sum(int(np.count_nonzero(~step.starts)) for step in self._steps)

    def means(self) -> dict[str, float]:
        """Means per arrived step; figures of a part are absent while it is not known."""
        arrived = np.stack([~step.starts for step in self._steps])
        rewards = np.stack([step.intrinsic_rewards for step in self._steps])
        chosen, largest = {"intrinsic/reward": rewards[arrived]}, {}
        # An environment that tells revisits does not on the first step after a reset.
        told = np.array([step.revisits is not None for step in self._steps])
        for part in self._parts:
            tag, values = f"intrinsic/{part.name}", np.stack([step.parts[part.name] for step in self._steps])
            known = values[arrived & np.isfinite(values)]
            chosen[tag] = known
            if part.around_one and len(known):
                chosen[f"{tag}_above_1"] = known > 1.0
                largest[f"{tag}_max"] = float(known.max(initial=0.0))
            if part.by_revisit and told.any():
                again = np.stack([step.revisits for step in self._steps if step.revisits is not None])
                chosen[f"{tag}_new"] = values[told][arrived[told] & ~again]
                chosen[f"{tag}_revisits"] = values[told][arrived[told] & again]
        return {name: float(values.mean(dtype=np.float64)) for name, values in chosen.items() if len(values)} | largest
