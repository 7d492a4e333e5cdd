"""Measures how well the agent plays: greedy episodes with a bandit of their own, apart from training.

Agent57 section 3.2 and appendix ("Evaluator"): epsilon 0.01, its own bandit over policies (window 3600, epsilon 0.01).
The score of a round is the mean return of fresh episodes of one arm that was chosen before them; only afterwards do
they tell the bandit anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from actors.config import EvaluationConfig
from actors.environments.contract import EnvironmentConfig, LaneEnvironments
from actors.environments.kinds import has_step_limit
from actors.episode_clip import EpisodeClip
from actors.lanes import Lanes, LaneStep
from actors.rollout import Episode, EpisodeTally
from agent57.bandit import SlidingWindowUCB
from agent57.config import AgentConfig
from agent57.state import Stateful

HALF_LIFE_ROUNDS = 2
"""Rounds after which an episode counts half in the choice of the arm that is scored."""
EVALUATION_STEPS = 10_000
"""Steps after which an evaluated episode is cut where no limit is registered or configured, or rounds might not end."""


class Evaluator(Stateful):
    """Plays rounds of ``episodes`` episodes, one per lane, with fixed weights during a round.

    `begin` starts a round; `play` advances it a bounded number of steps, so that its caller stays responsive. ``life``:
    see `RolloutWorker`.
    """

    STATE = ("lanes", "bandit", "scored_arm", "_rounds", "_arms", "_episodes", "_playing")

    def __init__(
        self,
        env_id: str,
        agent: AgentConfig,
        evaluation: EvaluationConfig,
        environment: EnvironmentConfig,
        seed: int,
        torso_dtype: str = "float32",
        reproducible: bool = False,
        num_lanes: int | None = None,
        render: bool = False,
        life: int = 0,
    ) -> None:
        num_policies = agent.family.num_policies
        self.num_lanes = num_lanes or lanes_of(evaluation, num_policies)
        self._explorers = min(2, self.num_lanes // 2) if explores(evaluation, num_policies) else 0
        lanes_seed, environments_seed, bandit_seed = np.random.SeedSequence([seed, 57, life]).generate_state(3)
        environments = LaneEnvironments(
            env_id, self.num_lanes, int(environments_seed), environment, reproducible, render=render
        )
        epsilons = np.full(self.num_lanes, evaluation.epsilon)
        self.lanes = Lanes(agent, environments, epsilons, int(lanes_seed), torso_dtype)
        self.bandit = SlidingWindowUCB(
            num_policies,
            evaluation.bandit_window,
            evaluation.bandit_epsilon,
            evaluation.ucb_bonus,
            np.random.default_rng(int(bandit_seed)),
        )
        self._policy_index = evaluation.policy_index
        self.scored_arm = 0
        """Whose episodes of this round are the score: chosen before the round began."""
        self._rounds = 0
        self._moments: dict[str, Any] | None = None
        self._arms = np.zeros(self.num_lanes, np.int64)
        self._episodes = EpisodeTally(self.num_lanes)
        self._max_steps = None if has_step_limit(env_id, environment) else EVALUATION_STEPS
        self._playing = np.zeros(self.num_lanes, np.bool_)
        self._clip = EpisodeClip()

    def set_weights(self, version: int, vector: np.ndarray) -> None:
        self.lanes.set_weights(version, vector)

    def set_moments(self, running_state: dict[str, Any] | None) -> None:
        """Begin every round with these moments of novelty (`Lanes.running_state`), which are training's; None: go on.

        The networks see intrinsic rewards, so an evaluator with moments of its own would play another policy.
        """
        self._moments = running_state

    def begin(self, favourite_arm: int, training_means: np.ndarray | None = None) -> None:
        """Start a round: all lanes but the explorers play the arm to be scored, by what is known of earlier rounds.

        While nothing is known that is ``favourite_arm``, training's; so it is where the arm has got worse since, by
        ``training_means`` [N], the mean returns of training's newest episodes. Explorers keep the bandit informed: they
        play what it selects and training's favourite, for training has fresh returns of every policy, this bandit few.
        """
        self.scored_arm = favourite_arm
        if self._policy_index is not None:
            self.scored_arm = self._policy_index
        elif (best := best_arm(self.bandit, self.num_lanes, training_means)) is not None:
            self.scored_arm = best
        arms = [self.scored_arm] * (self.num_lanes - self._explorers)
        in_flight = np.bincount(arms, minlength=self.bandit.num_arms)
        for explorer in range(self._explorers):
            # A single explorer plays the favourite in every other round.
            turn = explorer if self._explorers > 1 else self._rounds % 2
            follows = turn == 0 and favourite_arm != self.scored_arm
            arms.append(favourite_arm if follows else self.bandit.select(in_flight))
            in_flight[arms[-1]] += 1
        self._rounds += 1
        self.begin_with(arms)

    def begin_with(self, arms: list[int]) -> None:
        """Start a round in which lane l plays policy ``arms[l]``."""
        if self._moments is not None:
            self.lanes.load_running_state(self._moments)
        self.lanes.restart()
        self._arms[:] = arms
        self._playing[:] = True
        self._clip.restart()

    @property
    def clip(self) -> np.ndarray | None:
        """Images of the first lane's episode of this round, [n, *obs]; None where observations are no images."""
        return self._clip.frames() if self.lanes.environments.spec.is_image else None

    @property
    def playing(self) -> bool:
        """Whether an episode of the current round is still going on."""
        return bool(self._playing.any())

    def play(self, max_steps: int, watch: Callable[[LaneStep, list[np.ndarray]], None] | None = None) -> list[Episode]:
        """Advance the round by at most ``max_steps`` steps; returns its episodes that ended meanwhile.

        ``watch`` sees each step with pictures of what was observed, one per lane (needs ``render``).
        """
        episodes: list[Episode] = []
        for _ in range(max_steps):
            if not self.playing:
                break
            pictures = self.lanes.environments.pictures() if watch is not None else []
            step = self.lanes.step(lambda lane: int(self._arms[lane]))
            if watch is not None:
                watch(step, pictures)
            if self._playing[0]:
                if step.starts[0]:
                    # Of an episode that broke off nothing is kept.
                    self._clip.restart()
                self._clip.add(step.observations[0])
            for episode in self._episodes.add(step, 0, self.lanes.epsilons, self._max_steps):
                # A lane that is done plays on until the others are; those episodes do not count.
                if self._playing[episode.lane]:
                    self._playing[episode.lane] = False
                    self.bandit.update(episode.policy_index, episode.extrinsic_return)
                    episodes.append(episode)
        return episodes


def explores(evaluation: EvaluationConfig, num_policies: int) -> bool:
    """Whether there is an arm to choose."""
    return evaluation.policy_index is None and num_policies > 1


def lanes_of(evaluation: EvaluationConfig, num_policies: int) -> int:
    """Episodes of a round: at least two where one of them has to explore."""
    return max(evaluation.episodes, 2) if explores(evaluation, num_policies) else evaluation.episodes


def best_arm(bandit: SlidingWindowUCB, num_lanes: int, training_means: np.ndarray | None = None) -> int | None:
    """The arm that an evaluator of ``num_lanes`` lanes with this bandit scores next.

    None where training's favourite is the better choice: while nothing is known, and where the arm lies in the lower
    half of the range of ``training_means`` [N] (NaN: not played), which are fresher than any round.
    """
    best = bandit.lately_best_arm(half_life=HALF_LIFE_ROUNDS * num_lanes)
    if best is None or training_means is None or not np.isfinite(training_means[best]):
        return best
    middle = (np.nanmin(training_means) + np.nanmax(training_means)) / 2
    return None if training_means[best] < middle else best
