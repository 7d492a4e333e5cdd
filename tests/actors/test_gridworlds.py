"""What all gridworlds promise: Gymnasium's two interfaces, next-step autoreset, and lanes that are independent."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

import actors.environments.gridworlds  # noqa: F401 (registers the ids)
from actors.environments.gridworlds.near_or_far import VectorNearOrFar
from actors.environments.gridworlds.vector_gridworld import LEFT, RIGHT, GridworldEnv, VectorGridworld

WORLDS = [
    ("Agent57/RandomCoin-v0", {"size": 5}),
    ("Agent57/DiscoMaze-v0", {"size": 7}),
    ("Agent57/TMaze-v0", {"corridor": 3}),
    ("Agent57/NearOrFar-v0", {"near": 2, "far": 4}),
]
SIZES = {"Agent57/RandomCoin-v0": 15, "Agent57/DiscoMaze-v0": 21, "Agent57/TMaze-v0": 20, "Agent57/NearOrFar-v0": 34}
LIMITS = {
    "Agent57/RandomCoin-v0": 200,
    "Agent57/DiscoMaze-v0": 5000,
    "Agent57/TMaze-v0": 200,
    "Agent57/NearOrFar-v0": 300,
}
LIMIT = 9
worlds = pytest.mark.parametrize(("env_id", "arguments"), WORLDS)


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def vector(env_id: str, arguments: dict[str, Any], lanes: int, limit: int = LIMIT) -> VectorGridworld:
    made = gymnasium.make_vec(env_id, num_envs=lanes, max_episode_steps=limit, **arguments)
    assert isinstance(made, VectorGridworld)
    return made


def synchronous(env_id: str, arguments: dict[str, Any], lanes: int) -> SyncVectorEnv:
    """Gymnasium's own vector environment around as many single ones: what ours must agree with."""
    return SyncVectorEnv(
        [lambda: gymnasium.make(env_id, max_episode_steps=LIMIT, **arguments)] * lanes,
        autoreset_mode=AutoresetMode.NEXT_STEP,
    )


def assert_same(one: tuple, other: tuple) -> None:
    """Both results of a reset or a step are equal, ``infos`` included."""
    for ours, theirs in zip(one[:-1], other[:-1], strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert one[-1].keys() == other[-1].keys()
    for name in one[-1]:
        np.testing.assert_array_equal(one[-1][name], other[-1][name])


def play(env: VectorEnv, actions: np.ndarray, seeds: list[int]) -> list[tuple]:
    """Results of a seeded reset and of one step per row of ``actions`` [T, L]."""
    return [env.reset(seed=seeds), *(env.step(row) for row in actions)]


def lane_of(result: tuple, lane: int) -> tuple:
    infos = {name: values[lane : lane + 1] for name, values in result[-1].items()}
    return (*(array[lane : lane + 1] for array in result[:-1]), infos)


def random_actions(env: VectorEnv, steps: int, lanes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(env.single_action_space.n, size=(steps, lanes))


@pytest.mark.parametrize("env_id", SIZES)
def test_defaults_spaces_and_metadata(env_id: str) -> None:
    env = gymnasium.make_vec(env_id, num_envs=3)
    assert isinstance(env, VectorGridworld)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    size = SIZES[env_id]
    shapes = {15: (2, 15, 15), 21: (21, 21, 3), 20: (4,), 34: (34,)}
    assert env.single_observation_space.shape == shapes[size]
    assert env.observation_space.shape == (3, *shapes[size])
    assert env.single_action_space.n == (2 if "NearOrFar" in env_id else 4)
    assert env.max_episode_steps == gymnasium.spec(env_id).max_episode_steps == LIMITS[env_id]
    for observations in (env.reset(seed=0)[0], env.step(env.action_space.sample())[0]):
        assert observations in env.observation_space


@worlds
def test_gymnasiums_checker_finds_nothing(env_id: str, arguments: dict[str, Any]) -> None:
    env = gymnasium.make(env_id, render_mode="rgb_array", **arguments)
    assert isinstance(env.unwrapped, GridworldEnv)
    check_env(env.unwrapped)
    env.reset(seed=0)
    picture = env.render()
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    # The agent, and nothing else, is green.
    assert (picture == (0, 255, 0)).all(axis=2).sum() == 8 * 8


@worlds
def test_agrees_with_gymnasiums_vector_environment(env_id: str, arguments: dict[str, Any]) -> None:
    ours, theirs = vector(env_id, arguments, 4), synchronous(env_id, arguments, 4)
    seeds = [5, 6, 7, 6]
    actions = random_actions(ours, 200, 4)
    results = play(ours, actions, seeds)
    for one, other in zip(results, play(theirs, actions, seeds), strict=True):
        assert_same(one, other)
    assert sum(result[2].sum() for result in results[1:]) > 5
    assert sum(result[3].sum() for result in results[1:]) > (0 if "Disco" in env_id else 5)
    # Lanes reset in the middle, one with a seed and one without; then all of them.
    mask = np.array([True, False, True, False])
    for seed, options in (([9, 1, None, None], {"reset_mask": mask}), (3, None), (None, None)):
        assert_same(
            lane_of(ours.reset(seed=seed, options=options and dict(options)), 0),
            lane_of(theirs.reset(seed=seed, options=options and dict(options)), 0),
        )
        for row in random_actions(ours, 20, 4, seed=1):
            assert_same(ours.step(row), theirs.step(row))


@worlds
def test_a_lane_depends_on_its_own_seed_and_actions_only(env_id: str, arguments: dict[str, Any]) -> None:
    together, alone = vector(env_id, arguments, 5), vector(env_id, arguments, 1)
    actions = random_actions(together, 100, 5)
    results = play(together, actions, [3, 1, 4, 1, 5])
    for lane, seed in enumerate([3, 1, 4, 1, 5]):
        for one, other in zip(results, play(alone, actions[:, lane : lane + 1], [seed]), strict=True):
            assert_same(lane_of(one, lane), other)


@pytest.mark.parametrize(("env_id", "arguments"), WORLDS[:3])
def test_episodes_differ_between_seeds(env_id: str, arguments: dict[str, Any]) -> None:
    env = vector(env_id, arguments, 64)
    first, _ = env.reset(seed=0)
    assert len(np.unique(first.reshape(64, -1), axis=0)) >= 2
    # One number seeds lane l with number + l.
    np.testing.assert_array_equal(env.reset(seed=1)[0][:-1], first[1:])
    # Without a seed, the lanes go on: new episodes, the same ones after the same seed.
    np.testing.assert_array_equal(env.reset(seed=0)[0], first)
    second, _ = env.reset()
    assert not np.array_equal(second, first)
    env.reset(seed=0)
    np.testing.assert_array_equal(env.reset()[0], second)


def test_autoreset_and_truncation_worked_by_hand() -> None:
    """Positions -1..2, limit 3; lane 0 goes right to the far end at 2, lane 1 goes to and fro until time is up."""
    env = VectorNearOrFar(2, max_episode_steps=3, near=1, far=2, far_reward=5.0)
    env.reset(seed=0)
    left, right = 0, 1
    # (actions, positions, rewards, terminated, truncated, revisit) of one step each.
    script = [
        ((right, right), (1, 1), (0, 0), (False, False), (False, False), (False, False)),
        ((right, left), (2, 0), (5, 0), (True, False), (False, False), (False, True)),
        # Lane 0 begins anew, whatever its action.
        ((left, right), (0, 1), (0, 0), (False, False), (False, True), (False, True)),
        ((left, left), (-1, 0), (1, 0), (True, False), (False, False), (False, False)),
        ((right, left), (0, -1), (0, 1), (False, True), (False, False), (False, False)),
    ]
    for actions, positions, rewards, terminated, truncated, revisit in script:
        observations, *flags, infos = env.step(np.array(actions))
        assert (observations.argmax(axis=1) - 1).tolist() == list(positions)
        assert observations.sum(axis=1).tolist() == [1, 1]
        assert [array.tolist() for array in flags] == [list(rewards), list(terminated), list(truncated)]
        assert infos["revisit"].tolist() == list(revisit)


def test_an_end_in_the_last_step_is_both_terminated_and_truncated() -> None:
    env = VectorNearOrFar(1, max_episode_steps=2, near=2, far=9)
    env.reset()
    env.step(np.array([0]))
    _, _, terminated, truncated, _ = env.step(np.array([0]))
    assert (terminated[0], truncated[0]) == (True, True)


@worlds
def test_masked_reset_leaves_the_other_lanes_alone(env_id: str, arguments: dict[str, Any]) -> None:
    disturbed, calm = vector(env_id, arguments, 3), vector(env_id, arguments, 3)
    first, after = np.split(random_actions(calm, 60, 3), 2)
    play(disturbed, first, [1, 2, 3])
    play(calm, first, [1, 2, 3])
    observations, _ = disturbed.reset(seed=[7, 8, 9], options={"reset_mask": np.array([False, True, False])})
    fresh = vector(env_id, arguments, 1)
    np.testing.assert_array_equal(observations[1:2], fresh.reset(seed=[8])[0])
    for row in after:
        one, other = disturbed.step(row), calm.step(row)
        assert_same(lane_of(one, 0), lane_of(other, 0))
        assert_same(lane_of(one, 1), fresh.step(row[1:2]))
        assert_same(lane_of(one, 2), lane_of(other, 2))


@worlds
def test_returned_arrays_belong_to_the_caller(env_id: str, arguments: dict[str, Any]) -> None:
    scribbled, clean = vector(env_id, arguments, 3), vector(env_id, arguments, 3)
    actions = random_actions(clean, 30, 3)
    expected = play(clean, actions, [0, 1, 2])
    mask = np.ones(3, np.bool_)
    result: tuple = scribbled.reset(seed=[0, 1, 2], options={"reset_mask": mask})
    mask[:] = False
    for t in range(31):
        assert_same(result, expected[t])
        for array in (*result[:-1], *result[-1].values()):
            array[...] = 1 - array
        if t < 30:
            result = scribbled.step(actions[t])


def test_misuse_is_refused() -> None:
    env = VectorNearOrFar(2)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(2, np.int64))
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ValueError, match="2 lanes need as many seeds, got 3"):
        env.reset(seed=[1, 2, 3])
    for mask in ([True, False], np.array([1, 0]), np.ones(3, np.bool_)):
        with pytest.raises(ValueError, match="reset_mask"):
            env.reset(options={"reset_mask": mask})
    env.reset()
    for action in (-1, 2):
        with pytest.raises(ValueError, match="actions are 0 to 1"):
            env.step(np.array([0, action]))


@pytest.mark.parametrize(
    ("env_id", "arguments", "words"),
    [
        ("Agent57/RandomCoin-v0", {"size": 4}, "size"),
        ("Agent57/RandomCoin-v0", {"size": 9.0}, "size"),
        ("Agent57/DiscoMaze-v0", {"size": 20}, "odd"),
        ("Agent57/DiscoMaze-v0", {"num_colours": 9}, "num_colours"),
        ("Agent57/DiscoMaze-v0", {"num_mazes": 0}, "num_mazes"),
        ("Agent57/TMaze-v0", {"corridor": 0}, "corridor"),
        ("Agent57/NearOrFar-v0", {"near": 0}, "near"),
        ("Agent57/NearOrFar-v0", {"far": 3}, "far"),
        ("Agent57/NearOrFar-v0", {"far_reward": 1}, "far_reward"),
        ("Agent57/NearOrFar-v0", {"render_mode": "human"}, "render_mode"),
    ],
)
def test_nonsense_arguments_are_refused(env_id: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gymnasium.make_vec(env_id, num_envs=1, **arguments)


def test_single_environment_ends_needs_a_reset_and_can_be_given_a_generator() -> None:
    env = gymnasium.make("Agent57/TMaze-v0", corridor=1).unwrapped
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(RIGHT)
    env.reset(seed=0)
    for action in (LEFT, RIGHT, 0):
        *_, terminated, truncated, info = env.step(action)
    assert (terminated, truncated, info) == (True, False, {"revisit": False})
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(RIGHT)
    cues = [env.reset(seed=1)[0].argmax(), *(env.reset()[0].argmax() for _ in range(20))]
    env.np_random = np.random.default_rng(np.random.PCG64(np.random.SeedSequence(1)))
    assert [env.reset()[0].argmax() for _ in range(21)] == cues
