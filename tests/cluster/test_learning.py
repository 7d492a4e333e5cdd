"""The whole agent learns tasks that random play fails, through the command line's own code.

The maze is part of every test run; CartPole and Pong take minutes and are marked ``slow`` (their curves are in
``results/``): ``python -m pytest -m slow tests/cluster/test_learning.py``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import tests.fakes  # noqa: F401  (registers TinyMaze-v0)
from actors.environments.contract import EnvironmentConfig
from cluster.commands.train import train
from cluster.run.presets import LAPTOP, SMALL
from cluster.telemetry.metrics import MetricSeries, read_metrics


def random_return(env_id: str, episodes: int) -> float:
    """Mean return of uniformly random play."""
    environment = gymnasium.make(env_id)
    environment.action_space.seed(0)
    returns = []
    for episode in range(episodes):
        environment.reset(seed=episode)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = environment.step(environment.action_space.sample())
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return float(np.mean(returns))


def test_a_maze_where_random_play_fails_is_learned_within_three_minutes(tmp_path: Path) -> None:
    """Serial, whole agent: four policies, both networks, embedding, RND, memory, bandit. 9 steps are optimal."""
    assert random_return("TinyMaze-v0", 300) < 0.2
    config = dataclasses.replace(
        SMALL,
        env="tests.fakes:TinyMaze-v0",
        serial=True,
        seed=4,
        run_dir=str(tmp_path / "run"),
        max_env_frames=66_000,
        max_minutes=3.0,
        evaluation=dataclasses.replace(SMALL.evaluation, period_env_frames=15_000),
    )
    assert train(config, "small", None) == 0
    metrics = read_metrics(tmp_path / "run")
    best = int(np.argmax(metrics["evaluation/return"].values))
    assert metrics["evaluation/return"].values[best] >= 0.9
    assert metrics["evaluation/episode_length"].values.min() <= 16
    # The parts that could be silently dead: embedding, life-long novelty, both Q-networks.
    assert metrics["learner/embedding_accuracy"].values[-1] > 1.5 / 4
    assert metrics["learner/rnd_error"].values[-1] < 0.5 * metrics["learner/rnd_error"].values[0]
    for net in ("extrinsic", "intrinsic"):
        assert metrics[f"learner/{net}_max_abs_q"].values[-1] < 100
        assert metrics[f"learner/{net}_grad_norm"].values[-1] > 0


def test_the_exploitative_policy_goes_straight_to_a_random_coin(tmp_path: Path) -> None:
    """`results/random_coin.py` in small: three of four policies wander for novelty, policy 0 must not."""
    room = EnvironmentConfig(arguments=("size=5",), max_episode_steps=12)
    config = dataclasses.replace(
        SMALL,
        env="Agent57/RandomCoin-v0",
        serial=True,
        run_dir=str(tmp_path / "run"),
        max_env_frames=26_000,
        family=dataclasses.replace(SMALL.family, gamma_max=0.95, gamma_min=0.9),
        network=dataclasses.replace(SMALL.network, torso_size=64, lstm_size=32, head_size=32),
        environment=room,
        replay=dataclasses.replace(SMALL.replay, replay_ratio=8.0),
        learner=dataclasses.replace(SMALL.learner, learning_rate=1e-3, target_period=20),
        evaluation=dataclasses.replace(SMALL.evaluation, period_env_frames=8_000, episodes=64, policy_index=0),
    )
    assert train(config, "small", None) == 0
    returns = read_metrics(tmp_path / "run")["evaluation/return"].values
    assert returns.max() >= 0.85


def reaches(series: MetricSeries, value: float) -> float:
    """Minutes until ``series`` first reaches ``value``; infinity if never."""
    hits = np.flatnonzero(series.values >= value)
    return float(series.minutes[hits[0]]) if len(hits) else float("inf")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cartpole_reaches_400_within_ten_minutes(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, env="CartPole-v1", run_dir=str(tmp_path / "run"), max_minutes=10.0)
    assert train(config, "small", None) == 0
    assert reaches(read_metrics(tmp_path / "run")["evaluation/return"], 400) <= 10


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_pong_with_one_policy_passes_zero_within_forty_minutes(tmp_path: Path) -> None:
    config = dataclasses.replace(
        LAPTOP,
        family=dataclasses.replace(LAPTOP.family, num_policies=1, beta_max=0.0),
        run_dir=str(tmp_path / "run"),
        max_minutes=40.0,
    )
    assert train(config, "laptop", None) == 0
    assert reaches(read_metrics(tmp_path / "run")["evaluation/return"], 0) <= 40
