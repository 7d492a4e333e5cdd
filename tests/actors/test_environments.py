"""The environment contract: specs, next-step autoreset, clear refusals, and reproducible episodes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from actors.environments.config import keyword_arguments
from actors.environments.contract import (
    EnvironmentConfig,
    EnvironmentStep,
    LaneEnvironments,
    UnsupportedEnvironment,
    environment_spec,
    frames_per_step,
)
from actors.environments.door import EnvironmentRaised
from actors.environments.gridworlds.disco_maze import maze_walls
from actors.environments.gridworlds.vector_gridworld import VectorGridworld
from agent57.structures import EnvironmentSpec
from tests.fakes import Chain

PAPER = EnvironmentConfig()
SHORT_PONG = EnvironmentConfig(max_frames=24)


def register_spaces(
    name: str, observation_space: spaces.Space[Any], action_space: spaces.Space[Any] | None = None
) -> str:
    kwargs = {"observation_space": observation_space, "action_space": action_space or spaces.Discrete(2)}
    gymnasium.registry.pop(name, None)
    gymnasium.register(name, "tests.fakes:Spaces", kwargs=kwargs)
    return name


def play(environments: LaneEnvironments, steps: int, seed: int) -> list[EnvironmentStep]:
    """What ``steps`` steps of random play bring."""
    rng = np.random.default_rng(seed)
    size = environments.num_lanes
    return [environments.step(rng.integers(environments.spec.num_actions, size=size)) for _ in range(steps)]


def assert_same(ours: list[EnvironmentStep], theirs: list[EnvironmentStep]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        for name in ("observations", "rewards", "terminated", "truncated", "revisits"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize(
    ("env_id", "expected"),
    [
        ("ALE/Pong-v5", EnvironmentSpec((1, 84, 84), "uint8", 255.0, 18)),
        ("PongNoFrameskip-v4", EnvironmentSpec((1, 84, 84), "uint8", 255.0, 18)),
        ("CartPole-v1", EnvironmentSpec((4,), "float32", 1.0, 2)),
        ("FrozenLake-v1", EnvironmentSpec((16,), "float32", 1.0, 4)),
        ("tests.fakes:TinyMaze-v0", EnvironmentSpec((3, 7, 7), "uint8", 255.0, 4)),
        ("tests.fakes:Chain-v0", EnvironmentSpec((8,), "float32", 1.0, 2)),
        ("Agent57/RandomCoin-v0", EnvironmentSpec((2, 15, 15), "uint8", 1.0, 4)),
        ("Agent57/DiscoMaze-v0", EnvironmentSpec((3, 21, 21), "uint8", 255.0, 4)),
        ("Agent57/TMaze-v0", EnvironmentSpec((4,), "float32", 1.0, 4)),
        ("Agent57/NearOrFar-v0", EnvironmentSpec((34,), "float32", 1.0, 2)),
    ],
)
def test_spec_and_what_is_observed_agree(env_id: str, expected: EnvironmentSpec) -> None:
    assert environment_spec(env_id, PAPER) == expected
    environments = LaneEnvironments(env_id, 3, 0, PAPER)
    first = environments.reset()
    for observations in (first, environments.step(np.zeros(3, np.int64)).observations):
        assert observations.shape == (3, *expected.observation_shape)
        assert observations.dtype == expected.observation_dtype
    environments.close()


def test_minimal_action_set() -> None:
    assert environment_spec("ALE/Pong-v5", EnvironmentConfig(full_action_set=False)).num_actions == 6


@pytest.mark.parametrize(
    ("space", "shape", "dtype", "scale"),
    [
        (spaces.Box(0, 1, (), np.float64), (1,), "float32", 1.0),
        (spaces.Box(0, 9, (5, 6), np.uint8), (1, 5, 6), "uint8", 9.0),
        (spaces.Box(0, 9, (5, 6, 3), np.int64), (3, 5, 6), "float32", 1.0),
        (spaces.Box(0, 255, (4, 6, 5), np.uint8), (4, 6, 5), "uint8", 255.0),
        (spaces.Box(0, 255, (3, 4, 2), np.uint8), (2, 3, 4), "uint8", 255.0),
        (spaces.Discrete(5, start=2), (5,), "float32", 1.0),
        (spaces.MultiBinary(3), (3,), "float32", 1.0),
        (spaces.MultiDiscrete([2, 3]), (5,), "float32", 1.0),
    ],
)
def test_observation_spaces(space: spaces.Space[Any], shape: tuple[int, ...], dtype: str, scale: float) -> None:
    env_id = register_spaces("SomeObservation-v0", space)
    environments = LaneEnvironments(env_id, 2, 0, PAPER)
    assert environments.spec == EnvironmentSpec(shape, dtype, scale, 2)
    assert environments.reset().shape == (2, *shape)


def test_channels_come_first_with_their_pixels_in_place() -> None:
    environments = LaneEnvironments("tests.fakes:TinyMaze-v0", 1, 0, PAPER)
    walls, agent, goal = environments.reset()[0]
    assert (walls[0, 2], agent[0, 0], goal[4, 3]) == (255, 255, 255)
    assert agent.sum() == goal.sum() == 255
    moved = environments.step(np.array([1])).observations[0]
    assert moved[1, 0, 1] == 255


def test_discrete_observations_are_one_hot_and_actions_start_where_the_space_does() -> None:
    env_id = register_spaces("Offset-v0", spaces.Discrete(5, start=2), spaces.Discrete(3, start=-1))
    environments = LaneEnvironments(env_id, 3, 0, PAPER)
    assert (environments.reset().sum(axis=1) == 1).all()
    assert environments.step(np.arange(3)).rewards.tolist() == [-1, 0, 1]


@pytest.mark.parametrize("reproducible", [False, True])
def test_next_step_autoreset_on_a_counter(reproducible: bool) -> None:
    environments = LaneEnvironments("tests.fakes:Counter-v0", 4, 7, PAPER, reproducible)
    previous, ended = environments.reset(), np.zeros(4, np.bool_)
    assert (previous[:, 0] == 0).all()
    tags, truncations, terminations = set(), 0, 0
    for result in play(environments, 60, seed=1):
        time, tag, length, truncates = result.observations.T
        for lane in range(4):
            if ended[lane]:
                assert time[lane] == 0
            else:
                assert (time[lane], tag[lane]) == (previous[lane, 0] + 1, previous[lane, 1])
        np.testing.assert_array_equal(result.rewards, time)
        ends = time == length
        np.testing.assert_array_equal(result.terminated, ends & (truncates == 0))
        np.testing.assert_array_equal(result.truncated, ends & (truncates == 1))
        tags |= set(tag[ended])
        truncations, terminations = truncations + result.truncated.sum(), terminations + result.terminated.sum()
        previous, ended = result.observations, ends
    assert truncations > 5
    assert terminations > 5
    assert len(tags) > 20


@pytest.mark.parametrize("reproducible", [False, True])
def test_time_cap_truncates_atari(reproducible: bool) -> None:
    environments = LaneEnvironments("ALE/Pong-v5", 2, 0, SHORT_PONG, reproducible)
    first = environments.reset()
    results = play(environments, 14, seed=0)
    flags = [(bool(r.truncated.all()), bool(r.terminated.any())) for r in results]
    # 24 frames are 6 steps; the 7th is the reset.
    assert flags == [(step in (5, 12), False) for step in range(14)]
    final, begun = results[5].observations, results[6].observations
    assert not np.array_equal(final, begun)
    # A first screen shows neither ball nor score: it is nearer to the other first screen than to the final one.
    difference = [np.abs(begun.astype(int) - other).sum() for other in (first, final)]
    assert difference[0] < difference[1]


def test_full_game_of_pong_ends_with_its_last_reward() -> None:
    environments = LaneEnvironments("ALE/Pong-v5", 1, 3, PAPER)
    environments.reset()
    rewards, last = [], None
    while last is None or not last.terminated[0]:
        last = environments.step(np.zeros(1, np.int64))
        rewards.append(last.rewards[0])
        assert len(rewards) < 2000
    assert sum(rewards) == -21
    assert (rewards[-1], last.truncated[0]) == (-1, False)
    after = environments.step(np.zeros(1, np.int64))
    assert (after.rewards[0], after.terminated[0], after.truncated[0]) == (0, False, False)
    assert not np.array_equal(after.observations, last.observations)


def test_rewards_are_not_clipped() -> None:
    environments = LaneEnvironments("ALE/MsPacman-v5", 4, 0, PAPER)
    environments.reset()
    rewards = np.concatenate([result.rewards for result in play(environments, 100, seed=0)])
    assert rewards.dtype == np.float32
    assert rewards.max() >= 10


def test_sticky_actions_of_the_id_are_overridden() -> None:
    def observations(sticky_actions: float) -> np.ndarray:
        config = EnvironmentConfig(noop_max=0, sticky_actions=sticky_actions)
        environments = LaneEnvironments("ALE/Breakout-v5", 3, 0, config)
        environments.reset()
        return np.array([environments.step(np.full(3, move)).observations for move in (3, 4) * 15])

    # Without no-ops and stickiness nothing is random, so all lanes see the same.
    plain, sticky = observations(0.0), observations(0.25)
    assert (plain == plain[:, :1]).all()
    assert not (sticky == sticky[:, :1]).all()


def test_seeded_resets_keep_their_random_noops() -> None:
    # Freeway's cars move from the first frame on, so the screen shows how many no-ops there were.
    environments = LaneEnvironments("ALE/Freeway-v5", 8, 0, PAPER, reproducible=True)
    assert len(np.unique(environments.reset().reshape(8, -1), axis=0)) >= 4
    still = LaneEnvironments("ALE/Freeway-v5", 3, 0, EnvironmentConfig(noop_max=0), reproducible=True)
    assert len(np.unique(still.reset().reshape(3, -1), axis=0)) == 1


def test_gymnasium_time_limit_truncates_and_can_be_overridden() -> None:
    config = EnvironmentConfig(max_episode_steps=3)
    environments = LaneEnvironments("CartPole-v1", 1, 0, config)
    environments.reset()
    results = play(environments, 7, seed=0)
    assert [bool(r.truncated[0]) for r in results] == [step in (2, 6) for step in range(7)]
    assert not any(r.terminated[0] for r in results)
    assert [float(r.rewards[0]) for r in results] == [1, 1, 1, 0, 1, 1, 1]


def test_returned_arrays_are_not_overwritten_later() -> None:
    for env_id in ("ALE/Pong-v5", "tests.fakes:Counter-v0"):
        environments = LaneEnvironments(env_id, 2, 0, PAPER)
        environments.reset()
        result = environments.step(np.zeros(2, np.int64))
        kept = [result.observations.copy(), result.rewards.copy(), result.terminated.copy()]
        play(environments, 10, seed=0)
        for now, then in zip((result.observations, result.rewards, result.terminated), kept, strict=True):
            np.testing.assert_array_equal(now, then)


def test_frames_per_step() -> None:
    config = EnvironmentConfig(frame_skip=3)
    assert frames_per_step("ALE/Pong-v5", config) == 3
    assert frames_per_step("CartPole-v1", config) == 1


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("ALE/Pongg-v5", "did you mean ALE/Pong-v5"),
        ("montezumarevenge", "did you mean ALE/MontezumaRevenge-v5"),
        ("CartPole", "CartPole-v1"),
        ("", "ALE/Pong-v5, or module:EnvId"),
        ("no.such.module:Maze-v0", "PYTHONPATH"),
        (":Maze-v0", "PYTHONPATH"),
        ("tests.fakes:TinyMase-v0", "did you mean TinyMaze-v0"),
        ("tests.fakes:ContinuousAction-v0", "DiscretizeAction"),
        ("tests.fakes:DictObservation-v0", "FlattenObservation"),
    ],
)
def test_unusable_environments_are_refused_in_one_sentence(env_id: str, words: str) -> None:
    with pytest.raises(UnsupportedEnvironment) as refusal:
        environment_spec(env_id, PAPER)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("observations", "actions", "words"),
    [
        (spaces.Box(0, 1, (2, 3, 4, 5)), spaces.Discrete(2), "ReshapeObservation"),
        (spaces.Sequence(spaces.Discrete(2)), spaces.Discrete(2), "TransformObservation"),
        (spaces.Box(0, 1, (2,)), spaces.MultiDiscrete([2, 2]), "TransformAction"),
    ],
)
def test_unusable_spaces_are_refused(observations: spaces.Space[Any], actions: spaces.Space[Any], words: str) -> None:
    env_id = register_spaces("Unusable-v0", observations, actions)
    with pytest.raises(UnsupportedEnvironment, match=words):
        environment_spec(env_id, PAPER)


@pytest.mark.parametrize(
    "setting",
    [{"frame_skip": 0}, {"noop_max": -1}, {"max_frames": 0}, {"sticky_actions": 1.0}, {"max_episode_steps": 0}],
)
def test_config_refuses_nonsense(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="environment"):
        EnvironmentConfig(**setting)


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "CartPole-v1", "Agent57/TMaze-v0"])
def test_unknown_action_is_refused(env_id: str) -> None:
    environments = LaneEnvironments(env_id, 2, 0, PAPER)
    environments.reset()
    for action in (-1, environments.spec.num_actions):
        with pytest.raises(ValueError, match="actions 0 to"):
            environments.step(np.array([0, action]))


def test_exceptions_name_environment_and_lane() -> None:
    environments = LaneEnvironments("tests.fakes:Raising-v0", 2, 0, PAPER)
    environments.reset()
    with pytest.raises(EnvironmentRaised) as raised:
        play(environments, 3, seed=0)
    named = "tests.fakes:Raising-v0, lane 0, step 3 of its episode raised RuntimeError: the emulator is on fire"
    assert str(raised.value) == named
    assert type(raised.value.__cause__) is RuntimeError


REPEATABLE = [
    ("ALE/Pong-v5", EnvironmentConfig(max_frames=36)),
    ("CartPole-v1", EnvironmentConfig(max_episode_steps=11)),
    ("FrozenLake-v1", PAPER),
    ("tests.fakes:Counter-v0", PAPER),
    ("tests.fakes:TinyMaze-v0", PAPER),
    ("Agent57/RandomCoin-v0", EnvironmentConfig(max_episode_steps=11, arguments=("size=5",))),
    ("Agent57/DiscoMaze-v0", EnvironmentConfig(arguments=("size=7",))),
    ("Agent57/TMaze-v0", EnvironmentConfig(max_episode_steps=11, arguments=("corridor=2",))),
    ("Agent57/NearOrFar-v0", EnvironmentConfig(max_episode_steps=11)),
]


@pytest.mark.parametrize(("env_id", "config"), REPEATABLE)
def test_same_seed_and_actions_give_the_same_lanes(env_id: str, config: EnvironmentConfig) -> None:
    one, other = (LaneEnvironments(env_id, 2, 5, config, reproducible=True) for _ in range(2))
    np.testing.assert_array_equal(one.reset(), other.reset())
    assert_same(play(one, 25, seed=1), play(other, 25, seed=1))


@pytest.mark.parametrize(("env_id", "config"), REPEATABLE)
@pytest.mark.parametrize("saved", ["inside an episode", "after an end", "after a reset"])
def test_restored_lanes_continue_identically(env_id: str, config: EnvironmentConfig, saved: str) -> None:
    original = LaneEnvironments(env_id, 2, 5, config, reproducible=True)
    original.reset()
    play(original, 4, seed=0)
    if saved != "inside an episode":
        ended = False
        while not ended:
            (result,) = play(original, 1, seed=1)
            ended = (result.terminated | result.truncated).any()
    if saved == "after a reset":
        play(original, 1, seed=1)
    state = original.state_dict()
    restored = LaneEnvironments(env_id, 2, 999, config, reproducible=True)
    restored.load_state_dict(state)
    assert_same(play(restored, 12, seed=2), play(original, 12, seed=2))


def test_lanes_with_histories_of_every_length_are_restored() -> None:
    gymnasium.registry.pop("ManyEndings-v0", None)
    endings = tuple((length, length % 2 == 0) for length in range(1, 9))
    gymnasium.register("ManyEndings-v0", "tests.fakes:Counter", kwargs={"endings": endings})
    original = LaneEnvironments("ManyEndings-v0", 12, 0, PAPER, reproducible=True)
    for steps in range(12):
        original.reset()
        before = play(original, steps, seed=steps)
        state = original.state_dict()
        restored = LaneEnvironments("ManyEndings-v0", 12, 1, PAPER, reproducible=True)
        restored.load_state_dict(state)
        if before:
            np.testing.assert_array_equal(restored.state_dict()["ended"], before[-1].terminated | before[-1].truncated)
        assert_same(play(restored, 20, seed=99), play(original, 20, seed=99))


def test_state_before_the_first_reset_can_be_restored() -> None:
    state = LaneEnvironments("CartPole-v1", 2, 3, PAPER, reproducible=True).state_dict()
    restored = LaneEnvironments("CartPole-v1", 2, 4, PAPER, reproducible=True)
    restored.load_state_dict(state)
    expected = LaneEnvironments("CartPole-v1", 2, 3, PAPER, reproducible=True)
    np.testing.assert_array_equal(restored.reset(), expected.reset())


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Agent57/RandomCoin-v0"])
def test_lanes_and_seeds_and_episodes_differ(env_id: str) -> None:
    environments = LaneEnvironments(env_id, 2, 3, PAPER)
    first, again = environments.reset(), environments.reset()
    other = LaneEnvironments(env_id, 2, 4, PAPER).reset()
    assert len(np.unique(np.concatenate([first, again, other]), axis=0)) == 6


def test_environment_that_ignores_its_seed_cannot_be_restored() -> None:
    environments = LaneEnvironments("tests.fakes:Unrepeatable-v0", 2, 0, PAPER, reproducible=True)
    environments.reset()
    play(environments, 3, seed=0)
    with pytest.raises(RuntimeError, match="not deterministic given its seed"):
        environments.load_state_dict(environments.state_dict())


def test_only_reproducible_lanes_have_a_state_and_only_their_own() -> None:
    with pytest.raises(ValueError, match="reproducible=True"):
        LaneEnvironments("CartPole-v1", 1, 0, PAPER).state_dict()
    state = LaneEnvironments("CartPole-v1", 2, 0, PAPER, reproducible=True).state_dict()
    with pytest.raises(ValueError, match="2 lanes of CartPole-v1, not 3 of CartPole-v1"):
        LaneEnvironments("CartPole-v1", 3, 0, PAPER, reproducible=True).load_state_dict(state)


def test_gridworlds_are_stepped_together_and_say_what_is_visited_again() -> None:
    config = EnvironmentConfig(arguments=("near=1", "far=3", "far_reward=7"))
    environments = LaneEnvironments("Agent57/NearOrFar-v0", 2, 0, config)
    assert isinstance(environments._lanes._vector, VectorGridworld)
    assert environments.reset().argmax(axis=1).tolist() == [1, 1]
    # Lane 0 goes to the far end; lane 1 right, back, to the near end, and begins anew.
    script = [
        ((1, 1), (0, 0), (False, False)),
        ((1, 0), (0, 0), (False, True)),
        ((1, 0), (7, 1), (False, False)),
        ((0, 0), (0, 0), (False, False)),
    ]
    for actions, rewards, revisits in script:
        result = environments.step(np.array(actions))
        assert result.rewards.dtype == np.float32
        assert result.rewards.tolist() == list(rewards)
        assert result.terminated.tolist() == [reward > 0 for reward in rewards]
        assert result.revisits is not None
        assert result.revisits.tolist() == list(revisits)
    assert result.observations.argmax(axis=1).tolist() == [1, 1]


def test_limit_of_a_gridworld_is_the_registered_one_unless_it_is_overridden() -> None:
    for limit, expected in ((None, 300), (4, 4)):
        environments = LaneEnvironments("Agent57/NearOrFar-v0", 1, 0, EnvironmentConfig(max_episode_steps=limit))
        environments.reset()
        steps = 1
        while steps < 500 and not environments.step(np.array([steps % 2])).truncated[0]:
            steps += 1
        assert steps == expected


def test_colours_of_a_gridworld_come_first_with_its_cells_in_place() -> None:
    config = EnvironmentConfig(arguments=("size=7", "num_colours=1", "num_mazes=1"))
    environments = LaneEnvironments("Agent57/DiscoMaze-v0", 2, 0, config)
    red, green, blue = environments.reset()[1]
    # The agent in the middle is green, walls of the only colour are red.
    assert [(int(row), int(column)) for row, column in np.argwhere(green)] == [(3, 3)]
    walls = maze_walls(0, 7)[0].reshape(7, 7)
    assert not np.array_equal(walls, walls.T)
    np.testing.assert_array_equal(red, np.where(walls, 255, 0))
    assert blue.sum() == 0


def test_revisits_are_those_of_the_environment_or_none() -> None:
    gymnasium.registry.pop("SaysRevisit-v0", None)
    gymnasium.register("SaysRevisit-v0", SaysRevisit)
    for env_id, expected in (("SaysRevisit-v0", True), ("CartPole-v1", False), ("ALE/Pong-v5", False)):
        environments = LaneEnvironments(env_id, 2, 0, PAPER)
        environments.reset()
        revisits = environments.step(np.array([0, 1])).revisits
        if expected:
            assert revisits is not None
            assert revisits.dtype == np.bool_
            assert revisits.tolist() == [False, True]
        else:
            assert revisits is None


class SaysRevisit(Chain):
    """A chain that says, wrongly but visibly, that every step to the right is a revisit."""

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        return (*super().step(action)[:4], {"revisit": bool(action == 1)})


def test_arguments_are_read_as_json_or_else_as_text() -> None:
    given = ("a=1", "b=2.5", "c=true", "d=[1, 2]", 'e="x"', "f=x=y", "g=", "h=null")
    expected = {"a": 1, "b": 2.5, "c": True, "d": [1, 2], "e": "x", "f": "x=y", "g": "", "h": None}
    assert keyword_arguments(given) == expected
    assert keyword_arguments(()) == {}


@pytest.mark.parametrize("arguments", [("size",), ("=9",), ("si ze=9",), ("a=1", "a=2"), ("max_episode_steps=9",)])
def test_malformed_arguments_are_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"environment\.arguments"):
        EnvironmentConfig(arguments=arguments)


def test_arguments_reach_any_environment() -> None:
    config = EnvironmentConfig(arguments=("length=5",))
    assert environment_spec("tests.fakes:Chain-v0", config).observation_shape == (5,)
    config = EnvironmentConfig(arguments=("map_name=8x8",))
    assert environment_spec("FrozenLake-v1", config).observation_shape == (64,)
    config = EnvironmentConfig(arguments=("size=9",))
    assert environment_spec("Agent57/RandomCoin-v0", config).observation_shape == (2, 9, 9)


@pytest.mark.parametrize(
    ("env_id", "argument", "words"),
    [
        ("Agent57/RandomCoin-v0", "sise=9", "knows no argument 'sise'"),
        ("Agent57/RandomCoin-v0", "size=big", "size must be an integer"),
        ("Agent57/RandomCoin-v0", "num_envs=2", "num_envs"),
        ("CartPole-v1", "sise=9", "knows no argument 'sise'"),
        ("CartPole-v1", "disable_env_checker=true", "disable_env_checker"),
        ("ALE/Pong-v5", "mode=1", "Atari"),
    ],
)
def test_unusable_arguments_are_refused_in_one_sentence(env_id: str, argument: str, words: str) -> None:
    with pytest.raises(UnsupportedEnvironment) as refusal:
        environment_spec(env_id, EnvironmentConfig(arguments=(argument,)))
    assert words in str(refusal.value)
    assert env_id in str(refusal.value)
    assert "\n" not in str(refusal.value)
