"""Preprocessing is the training's, pictures show the game that is played, and Gymnasium's interface holds."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from actors.environments.atari.screens import AtariScreens
from actors.environments.contract import EnvironmentConfig, LaneEnvironments
from actors.environments.reproducible import EpisodeHistory
from actors.environments.training_environment import TrainingEnvironment

STICKY = EnvironmentConfig(full_action_set=False, sticky_actions=0.25)


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "Agent57/RandomCoin-v0", "CartPole-v1"])
def test_observations_and_rewards_are_those_of_training(env_id: str) -> None:
    """Rendering changes nothing, and one lane by itself is a lane of training."""
    actions = np.random.default_rng(0).integers(2, size=300)
    lanes = LaneEnvironments(env_id, 1, 5, STICKY, reproducible=True)
    lanes.reset()
    seed = int(EpisodeHistory(5, 1).begin(np.ones(1, np.bool_))[0])
    environment = TrainingEnvironment(env_id, STICKY, render_mode="rgb_array")
    observation, _ = environment.reset(seed=seed)
    for action in actions:
        expected = lanes.step(np.array([action]))
        observation, reward, terminated, truncated, _ = environment.step(action)
        np.testing.assert_array_equal(observation, expected.observations[0])
        assert (reward, terminated, truncated) == (
            expected.rewards[0], expected.terminated[0], expected.truncated[0]
        )  # fmt: skip
        if terminated or truncated:
            break
    picture = environment.render()
    assert picture is not None
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    environment.close()


def test_the_screen_shows_what_the_agent_sees() -> None:
    """Shrunk to 84 x 84 and turned grey, the coloured picture is the observation, but for rounding."""
    environment = TrainingEnvironment("ALE/Breakout-v5", EnvironmentConfig(), render_mode="rgb_array")
    environment.reset(seed=3)
    for action in [1, 3, 3, 4, 4, 3] * 10:
        observation, *_ = environment.step(action)
        picture = environment.render()
    assert picture is not None
    grey = picture.astype(np.float64) @ [0.2989, 0.587, 0.114]
    rows, columns = area_weights(210), area_weights(160)
    shrunk = rows @ grey @ columns.T
    assert np.abs(shrunk - observation[0]).max() < 3
    assert observation.std() > 10


def area_weights(size: int) -> np.ndarray:
    """[84, size]: row i averages the pixels that the i-th of 84 equal parts covers."""
    edges = np.linspace(0, size, 85)
    pixels = np.arange(size)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return covered.clip(0) / (size / 84)


def test_a_picture_of_another_game_is_noticed() -> None:
    lanes = LaneEnvironments("ALE/Pong-v5", 1, 5, EnvironmentConfig(), render=True)
    lanes.reset()
    screens = lanes._lanes._screens  # type: ignore[union-attr]
    assert isinstance(screens, AtariScreens)
    screens._vector.reset(seed=np.array([77]))
    with pytest.raises(RuntimeError, match="no longer shows"):  # noqa: PT012 (which step it is, is chance)
        for _ in range(1000):
            lanes.step(np.zeros(1, np.int64))


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "CartPole-v1"])
def test_gymnasium_accepts_it(env_id: str) -> None:
    environment = TrainingEnvironment(env_id, EnvironmentConfig())
    check_env(environment, skip_render_check=True)
    first, _ = environment.reset(seed=4)
    again, _ = environment.reset(seed=4)
    np.testing.assert_array_equal(first, again)
    with pytest.raises(ValueError, match="not an action"):
        environment.step(99)


def test_environments_that_cannot_be_drawn_say_so() -> None:
    lanes = LaneEnvironments("tests.fakes:Chain-v0", 2, 0, EnvironmentConfig(), render=True)
    lanes.reset()
    assert [picture.shape for picture in lanes.pictures()] == [(0, 0, 3)] * 2
    assert lanes.action_names == ["0", "1"]
