"""The evaluator: rounds of greedy episodes, whose scores and pulls are those really played."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from actors.config import EvaluationConfig
from actors.environments.contract import EnvironmentConfig
from actors.evaluator import Evaluator
from actors.lanes import LaneStep
from actors.rollout import Episode
from agent57.config import AgentConfig, IntrinsicConfig, NetworkConfig, PolicyFamilyConfig
from agent57.networks import Agent57Networks, flatten_weights
from cluster.run.checkpoint import load_tree, save_tree

CHAIN = "tests.fakes:Chain-v0"
"""8 cells: 7 steps to the right earn 1; whoever stays at the left end is cut off after 32."""
COUNTER = "CounterOfManyLengths-v2"
gymnasium.register(
    COUNTER, "tests.fakes:Counter", kwargs={"endings": ((3, False), (9, True), (1, False), (6, True), (23, False))}
)
AGENT = AgentConfig(
    family=PolicyFamilyConfig(num_policies=4, beta_max=100.0),
    network=NetworkConfig("mlp", torso_size=16, lstm_size=8, head_size=8, embedding_size=4, rnd_size=8),
    intrinsic=IntrinsicConfig(num_neighbours=3),
)


def chain_weights(evaluator: Evaluator) -> np.ndarray:
    """Q^e wants to go right (action 1), Q^i left: greedy policy 0 (beta 0) goes right, policy 3 (beta 100) left."""
    torch.manual_seed(0)
    networks = Agent57Networks(evaluator.lanes.environments.spec, 4, AGENT.network).requires_grad_(False)
    for network, advantages in ((networks.q_ext, [0.0, 1.0]), (networks.q_int, [1.0, 0.0])):
        for head in (network.value_head, network.advantage_head):
            head[-1].weight.zero_()
            head[-1].bias.zero_()
        network.advantage_head[-1].bias.copy_(torch.tensor(advantages))
    return flatten_weights(networks)


def make_evaluator(
    env_id: str = CHAIN, epsilon: float = 0.01, episodes: int = 8, seed: int = 0, num_lanes: int | None = None
) -> Evaluator:
    """An evaluator that goes right with policy 0 and left with policy 3 if ``env_id`` is the chain."""
    evaluation = EvaluationConfig(episodes=episodes, epsilon=epsilon, bandit_epsilon=0.0)
    evaluator = Evaluator(env_id, AGENT, evaluation, EnvironmentConfig(), seed, reproducible=True, num_lanes=num_lanes)
    if env_id == CHAIN:
        evaluator.set_weights(1, chain_weights(evaluator))
    return evaluator


def play_round(evaluator: Evaluator, steps_at_a_time: int = 1000) -> list[Episode]:
    episodes: list[Episode] = []
    while evaluator.playing:
        episodes += evaluator.play(steps_at_a_time)
    return episodes


def watch(evaluator: Evaluator) -> list[LaneStep]:
    """The steps that the evaluator's lanes take from now on."""
    seen: list[LaneStep] = []
    step = evaluator.lanes.step

    def watched(choose_policy: object) -> LaneStep:
        seen.append(step(choose_policy))  # type: ignore[arg-type]
        return seen[-1]

    evaluator.lanes.step = watched  # type: ignore[method-assign]
    return seen


def test_scores_are_what_the_environment_pays_to_the_greedy_policy() -> None:
    evaluator = make_evaluator(epsilon=0.0, episodes=4)
    evaluator.begin_with([0, 3, 0, 3])
    assert evaluator.playing
    episodes = sorted(play_round(evaluator), key=lambda episode: episode.lane)
    assert [episode.lane for episode in episodes] == [0, 1, 2, 3]
    assert [episode.policy_index for episode in episodes] == [0, 3, 0, 3]
    assert [episode.extrinsic_return for episode in episodes] == [1.0, 0.0, 1.0, 0.0]
    assert [episode.length for episode in episodes] == [7, 32, 7, 32]
    assert evaluator.bandit.counts.tolist() == [2, 0, 0, 2]
    assert evaluator.bandit.means.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert evaluator.bandit.greedy_arm() == 0
    assert evaluator.play(100) == []


def test_epsilon_is_that_of_the_evaluation_in_every_lane() -> None:
    """0.01 in the paper, unlike any of the training lanes': a greedy action has probability 0.995 of two."""
    assert EvaluationConfig().epsilon == 0.01
    evaluator = make_evaluator(episodes=64)
    seen = watch(evaluator)
    evaluator.begin_with([3] * 64)
    episodes = play_round(evaluator)
    assert {episode.epsilon for episode in episodes} == {0.01}
    probs = np.stack([step.behaviour_probs for step in seen])
    actions = np.stack([step.actions for step in seen])
    np.testing.assert_allclose(probs, np.where(actions == 0, 0.995, 0.005), rtol=1e-6)
    # 64 lanes x 33 steps x 0.005: 10.6 moves to the right, standard deviation 3.2.
    assert 0 < (actions == 1).sum() < 27


def test_every_lane_plays_one_episode_per_round() -> None:
    """Lanes that end early go on acting in the batch, but nothing of that counts."""
    evaluator = make_evaluator(COUNTER, episodes=5)
    seen = watch(evaluator)
    pulls = 0
    for arms in ([0, 1, 2, 3, 0], [3, 3, 1, 1, 1]):
        evaluator.begin_with(arms)
        first = len(seen)
        episodes = play_round(evaluator)
        steps = seen[first:]
        assert sorted(episode.lane for episode in episodes) == [0, 1, 2, 3, 4]
        assert len({episode.length for episode in episodes}) > 1
        for episode in episodes:
            end = next(t for t, step in enumerate(steps) if step.ends[episode.lane])
            assert steps[0].starts[episode.lane]
            assert episode.length == end
            assert episode.extrinsic_return == end * (end + 1) / 2
            rewards = [float(step.intrinsic_rewards[episode.lane]) for step in steps[: end + 1]]
            assert episode.intrinsic_return == pytest.approx(sum(rewards), rel=1e-6)
            assert episode.policy_index == arms[episode.lane] == steps[end].policy_index[episode.lane]
        pulls += 5
        assert evaluator.bandit.counts.sum() == pulls


def test_a_round_begun_anew_forgets_the_one_before() -> None:
    evaluator = make_evaluator(epsilon=0.0, episodes=2)
    evaluator.begin_with([3, 3])
    assert evaluator.play(20) == []
    evaluator.begin_with([0, 0])
    assert [(episode.length, episode.extrinsic_return) for episode in play_round(evaluator)] == [(7, 1.0)] * 2
    assert evaluator.bandit.counts.tolist() == [2, 0, 0, 0]


def test_all_lanes_but_two_play_an_arm_that_was_chosen_before_the_round() -> None:
    evaluator = make_evaluator(epsilon=0.0, episodes=8)
    evaluator.begin(favourite_arm=3)
    # Nothing is known yet, so it is training's favourite; the bandit's first pulls try each arm once.
    assert evaluator.scored_arm == 3
    episodes = sorted(play_round(evaluator), key=lambda episode: episode.lane)
    assert [episode.policy_index for episode in episodes] == [3] * 6 + [0, 1]
    assert evaluator.bandit.counts.tolist() == [1, 1, 0, 6]
    # Policy 0 reached the goal: it is scored from the next round on, however often another one is training's favourite.
    for _ in range(2):
        evaluator.begin(favourite_arm=3)
        assert evaluator.scored_arm == 0
        episodes = sorted(play_round(evaluator), key=lambda episode: episode.lane)
        assert [episode.policy_index for episode in episodes[:7]] == [0] * 6 + [3]


@pytest.mark.parametrize("env_id", [CHAIN, COUNTER])
def test_a_round_in_pieces_is_the_round_in_one_go(env_id: str) -> None:
    whole, pieces = make_evaluator(env_id, epsilon=0.3), make_evaluator(env_id, epsilon=0.3)
    for favourite in (1, 2):
        whole.begin(favourite)
        pieces.begin(favourite)
        expected = whole.play(1000)
        assert not whole.playing
        assert len({episode.length for episode in expected}) > 1
        assert play_round(pieces, steps_at_a_time=3) == expected
    assert pieces.bandit.state_dict() == whole.bandit.state_dict()


def test_play_takes_no_more_steps_than_it_was_given() -> None:
    evaluator = make_evaluator(epsilon=0.0, episodes=2)
    seen = watch(evaluator)
    evaluator.begin_with([0, 0])
    assert evaluator.play(7) == []
    assert len(seen) == 7
    assert len(evaluator.play(50)) == 2
    assert len(seen) == 8


def test_the_number_of_lanes_may_differ_from_the_config() -> None:
    evaluator = make_evaluator(episodes=8, num_lanes=3)
    evaluator.begin_with([0, 0, 3])
    assert len(play_round(evaluator)) == 3


def test_a_restored_evaluator_finishes_the_round_alike(tmp_path: Path) -> None:
    evaluator = make_evaluator(epsilon=0.3, seed=1)
    evaluator.begin_with([0, 3] * 4)
    early = evaluator.play(12)
    assert 0 < len(early) < 8
    save_tree(tmp_path, "evaluator", evaluator.state_dict())
    restored = make_evaluator(epsilon=0.3, seed=2)
    restored.load_state_dict(load_tree(tmp_path, "evaluator"))
    for favourite in (2, 3):
        assert play_round(restored) == play_round(evaluator)
        assert restored.bandit.state_dict() == evaluator.bandit.state_dict()
        evaluator.begin(favourite)
        restored.begin(favourite)


def test_an_episode_without_an_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.evaluator.EVALUATION_STEPS", 30)
    evaluator = make_evaluator("tests.hostile_environments:Unlimited-v0", num_lanes=3)
    for _ in range(2):
        evaluator.begin_with([0, 1, 2])
        episodes = play_round(evaluator, steps_at_a_time=7)
        assert [(episode.length, episode.cut) for episode in episodes] == [(30, True)] * 3
        assert all(0 <= episode.extrinsic_return <= 30 for episode in episodes)
    # Those that end by themselves, or have a limit, are not cut.
    evaluator = make_evaluator("CartPole-v1", num_lanes=3)
    evaluator.begin_with([0, 1, 2])
    assert not any(episode.cut for episode in play_round(evaluator))


def test_a_broken_episode_does_not_enter_the_score() -> None:
    gymnasium.registry.pop("BreaksNowAndThen-v0", None)
    arguments = {"fault": "nan reward", "every": 0.03}
    gymnasium.register("BreaksNowAndThen-v0", "tests.hostile_environments:Hostile", kwargs=arguments)
    evaluator = make_evaluator("BreaksNowAndThen-v0", num_lanes=8)
    for _ in range(3):
        evaluator.begin_with([0] * 8)
        episodes = play_round(evaluator)
        assert sorted(episode.lane for episode in episodes) == list(range(8))
        assert {episode.length for episode in episodes} == {10}
        assert all(np.isfinite(episode.extrinsic_return) for episode in episodes)
    assert len(evaluator.lanes.environments.take_faults()) > 3


def test_another_life_evaluates_on_other_episodes() -> None:
    arguments = (CHAIN, AGENT, EvaluationConfig(episodes=2), EnvironmentConfig(), 0)
    seeds = {
        Evaluator(*arguments, reproducible=True, life=life).lanes.environments.state_dict()["history"]["seed"]
        for life in (0, 1, 2)
    }
    assert len(seeds) == 3
