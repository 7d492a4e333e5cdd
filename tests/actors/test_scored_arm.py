"""The score has no part in choosing its arm: no bias on noise, one in every round, no arm that lives on old merits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from actors.config import EvaluationConfig
from actors.environments.contract import EnvironmentConfig
from actors.evaluator import Evaluator
from actors.rollout import Episode
from agent57.config import AgentConfig, IntrinsicConfig, NetworkConfig, PolicyFamilyConfig

SIZES = [(32, 8), (8, 4), (8, 3), (4, 2), (8, 1)]
"""Policies and episodes of a round: as in `paper`, `laptop` and `smoke`, and the fewest."""


def noise_evaluator(num_policies: int, episodes: int, seed: int, **evaluation: int) -> Evaluator:
    """An evaluator whose returns are standard normal noise, whatever policy plays."""
    agent = AgentConfig(
        family=PolicyFamilyConfig(num_policies=num_policies, beta_max=0.0),
        network=NetworkConfig("mlp", torso_size=4, lstm_size=4, head_size=4, embedding_size=4, rnd_size=4),
        intrinsic=IntrinsicConfig(novelty="none"),
    )
    config = EvaluationConfig(episodes=episodes, **evaluation)
    return Evaluator("tests.fakes:Noise-v0", agent, config, EnvironmentConfig(), seed)


def play(evaluator: Evaluator, favourite_arm: int) -> list[Episode]:
    evaluator.begin(favourite_arm)
    episodes = evaluator.play(5)
    assert not evaluator.playing
    return episodes


def scored(evaluator: Evaluator, episodes: list[Episode]) -> list[float]:
    return [one.extrinsic_return for one in episodes if one.policy_index == evaluator.scored_arm]


@pytest.mark.parametrize(("num_policies", "episodes"), SIZES)
def test_on_pure_noise_scores_are_0_from_the_first_round_on(num_policies: int, episodes: int) -> None:
    """Judged by the episodes that chose them, they were 0.4 to 1.6 standard deviations too high."""
    rng = np.random.default_rng(0)
    returns, counts = [], []
    for seed in range(30):
        evaluator = noise_evaluator(num_policies, episodes, seed)
        for _ in range(5):
            of_round = scored(evaluator, play(evaluator, int(rng.integers(num_policies))))
            returns += of_round
            counts.append(len(of_round))
    assert min(counts) >= max(1, episodes / 2)
    # Four standard errors of a mean of independent draws.
    assert abs(np.mean(returns)) < 4 / np.sqrt(len(returns))


def scored_arms(
    evaluator: Evaluator, rounds: int, mean: Callable[[int, int], float], favourite: Callable[[int], int]
) -> list[int]:
    """The scored arm of each round, where arm a earns mean(round, a) and noise of standard deviation 2."""
    add, at = evaluator._episodes.add, 0

    def paid(*arguments: object) -> list[Episode]:
        ended = add(*arguments)  # type: ignore[arg-type]
        return [
            dataclasses.replace(one, extrinsic_return=mean(at, one.policy_index) + 2 * one.extrinsic_return)
            for one in ended
        ]

    evaluator._episodes.add = paid  # type: ignore[method-assign]
    arms = []
    for at in range(rounds):
        play(evaluator, favourite(at))
        arms.append(evaluator.scored_arm)
    return arms


@pytest.mark.parametrize(("num_policies", "episodes"), SIZES)
@pytest.mark.parametrize("fallen_to", [-20.0, 2.0])
def test_an_arm_that_collapsed_is_left_soon(num_policies: int, episodes: int, fallen_to: float) -> None:
    """Arm 3 was the best for 20 rounds; the mean of all its episodes stays the highest for long."""
    for seed in range(4):
        evaluator = noise_evaluator(num_policies, episodes, seed)
        arms = scored_arms(
            evaluator,
            31,
            lambda at, arm: 5.0 if arm != 3 else 10.0 if at < 20 else fallen_to,
            lambda at: 3 if at < 20 else 1,
        )
        assert arms[19] == 3
        assert arms[30] != 3


@pytest.mark.parametrize(("num_policies", "episodes"), SIZES)
def test_the_best_arm_is_found_while_all_improve(num_policies: int, episodes: int) -> None:
    """As in Pong: from -20 to 20 in 25 rounds; arm 0 is better by 3 from round 10 on, which training knows."""
    last = []
    for seed in range(4):
        arms = scored_arms(
            noise_evaluator(num_policies, episodes, seed),
            50,
            lambda at, arm: -20 + 40 * min(at / 25, 1) + (0 if arm != 0 else 3 if at >= 10 else -3),
            lambda at: 0 if at >= 10 else 1 + at % (num_policies - 1),
        )
        last += arms[-5:]
    assert np.mean(np.array(last) == 0) > 0.9


def test_a_single_episode_is_the_score_and_a_second_one_explores() -> None:
    evaluator = noise_evaluator(8, 1, seed=0)
    explored = []
    for _ in range(16):
        episodes = play(evaluator, favourite_arm=2)
        assert len(episodes) == 2
        assert evaluator.scored_arm in [one.policy_index for one in episodes]
        explored += [one.policy_index for one in episodes if one.lane == 1]
    # What the bandit selects, its first pulls above all, and training's favourite.
    assert len(set(explored)) > 5
    assert 2 in explored


def test_without_a_choice_all_episodes_are_the_score() -> None:
    for evaluator in (noise_evaluator(4, 1, 0, policy_index=2), noise_evaluator(1, 1, 0)):
        assert [one.policy_index for one in play(evaluator, favourite_arm=0)] == [evaluator.scored_arm]
    assert evaluator.scored_arm == 0


def test_explorers_that_ask_together_get_different_arms() -> None:
    evaluator = noise_evaluator(4, 4, seed=1)
    for _ in range(2):
        play(evaluator, favourite_arm=0)
    evaluator.bandit.epsilon = 0.0
    evaluator.bandit._pulls.clear()
    for arm in range(4):
        evaluator.bandit.update(arm, 1.0)
    for _ in range(5):
        # Arm 0 is the first of equal ones, and training's favourite too: two lanes play it, the explorers what is left.
        evaluator.begin(favourite_arm=0)
        assert evaluator._arms[:2].tolist() == [0, 0]
        assert len(set(evaluator._arms.tolist())) == 3
