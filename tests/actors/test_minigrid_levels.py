"""MiniGrid levels: planes that say what MiniGrid's codes say, revisits, and a clear refusal without the package."""

from __future__ import annotations

import sys

import gymnasium
import numpy as np
import pytest

from actors.environments.contract import EnvironmentConfig, LaneEnvironments, UnsupportedEnvironment, environment_spec
from agent57.structures import EnvironmentSpec

minigrid = pytest.importorskip("minigrid")

from minigrid.core.world_object import Key  # noqa: E402 (after the check that MiniGrid is there)

from actors.environments.minigrid_levels import view_of  # noqa: E402

LEFT, RIGHT, FORWARD, TOGGLE = 0, 1, 2, 5
EMPTY_ROOM = "actors.environments.minigrid_levels:Agent57/MiniGrid-Empty-5x5-v0"


def planes_by_loops(image: np.ndarray) -> np.ndarray:
    """11 planes of objects, 6 of colours, 3 of states, written cell by cell."""
    planes = np.zeros((20, 7, 7), np.uint8)
    for x in range(7):
        for y in range(7):
            kind, colour, state = (int(value) for value in image[x, y])
            planes[kind, x, y] = planes[11 + colour, x, y] = planes[17 + state, x, y] = 1
    return planes.reshape(-1)


@pytest.mark.parametrize("level", ["KeyCorridorS3R3-v0", "LockedRoom-v0", "MultiRoom-N2-S4-v0"])
def test_planes_rewards_and_ends_are_those_of_the_level(level: str) -> None:
    ours, theirs = gymnasium.make(f"Agent57/MiniGrid-{level}"), gymnasium.make(f"MiniGrid-{level}")
    assert ours.observation_space == gymnasium.spaces.Box(0, 1, (980,), np.uint8)
    assert ours.action_space == theirs.action_space
    rng = np.random.default_rng(0)
    colours, states = set(), set()
    for seed in range(5):
        planes, info = ours.reset(seed=seed)
        observation, expected_info = theirs.reset(seed=seed)
        visited: set[tuple[int, int]] = set()
        for _ in range(80):
            np.testing.assert_array_equal(planes, planes_by_loops(observation["image"]))
            assert planes in ours.observation_space
            cell = tuple(int(x) for x in theirs.unwrapped.agent_pos)
            assert info == {**expected_info, "revisit": cell in visited}
            visited.add(cell)
            colours |= set(observation["image"][..., 1].flat)
            states |= set(observation["image"][..., 2].flat)
            action = rng.integers(6)
            planes, *outcome, info = ours.step(action)
            observation, *expected_outcome, expected_info = theirs.step(action)
            assert outcome == expected_outcome
            if any(outcome[1:]):
                break
    # Codes that fill the last planes, or a wrong stride would go unseen.
    assert max(colours) == 5
    assert max(states) >= 1


def test_moves_only_leaves_out_what_does_nothing_in_rooms_and_doors() -> None:
    """The same level and view; actions 0 to 3 are MiniGrid's 0, 1, 2 and 5."""
    ours = gymnasium.make("Agent57/MiniGridMoves-MultiRoom-N2-S4-v0")
    theirs = gymnasium.make("Agent57/MiniGrid-MultiRoom-N2-S4-v0")
    assert ours.action_space == gymnasium.spaces.Discrete(4)
    rng = np.random.default_rng(0)
    opened = 0
    for seed in range(20):
        mine, expected = ours.reset(seed=seed), theirs.reset(seed=seed)
        ended = False
        while not ended:
            np.testing.assert_array_equal(mine[0], expected[0])
            assert mine[1:] == expected[1:]
            action = int(rng.integers(4))
            mine, expected = ours.step(action), theirs.step((LEFT, RIGHT, FORWARD, TOGGLE)[action])
            ended = mine[2] or mine[3]
            door, is_open = mine[0].reshape(20, 7, 7)[[4, 17]]
            opened += int((door & is_open).sum())
    assert opened > 0, "toggle opens no door"


@pytest.mark.parametrize("see_through_walls", [False, True])
def test_the_quick_view_is_minigrids_from_every_cell_in_every_direction(see_through_walls: bool) -> None:
    level = gymnasium.make("MiniGrid-KeyCorridorS3R2-v0").unwrapped
    level.reset(seed=0)
    level.see_through_walls = see_through_walls
    seen = set()
    for x in range(level.width):
        for y in range(level.height):
            for level.agent_dir in range(4):
                level.agent_pos = (x, y)
                level.carrying = Key("blue") if (x + y) % 2 else None
                (ours, our_mask), (theirs, mask) = view_of(level), level.gen_obs_grid()
                np.testing.assert_array_equal(our_mask, mask)
                np.testing.assert_array_equal(ours.encode(our_mask), theirs.encode(mask))
                assert [type(cell) for cell in ours.grid] == [type(cell) for cell in theirs.grid]
                seen |= {type(cell).__name__ for cell in ours.grid}
    assert seen >= {"Key", "Door", "Wall", "NoneType"}


def test_what_the_agent_sees_in_an_empty_room() -> None:
    """It looks right from the upper left corner of a 3 x 3 room; in its own view it is at x = 3, y = 6 and looks up."""
    planes = gymnasium.make("Agent57/MiniGrid-Empty-5x5-v0").reset(seed=0)[0].reshape(20, 7, 7)
    unseen, empty, wall, goal = planes[0], planes[1], planes[2], planes[8]
    assert [(int(x), int(y)) for x, y in np.argwhere(goal)] == [(5, 4)]
    # Its own cell counts as empty; two more rows ahead and two columns to its right belong to the room.
    assert empty.sum() == 8
    assert empty[3:6, 4:7].sum() == 8
    assert wall[2, 3:].all()
    assert (unseen + empty + wall + goal == 1).all()
    # MiniGrid's walls are grey (5), its goal green (1).
    np.testing.assert_array_equal(planes[11 + 5], wall)
    np.testing.assert_array_equal(planes[11 + 1], goal)


def test_revisits_ignore_the_direction() -> None:
    env = gymnasium.make("Agent57/MiniGrid-Empty-5x5-v0")
    for _ in range(2):
        assert env.reset(seed=0)[1]["revisit"] is False
        moves = [(FORWARD, False), (LEFT, True), (LEFT, True), (FORWARD, True), (FORWARD, True), (LEFT, True)]
        assert [env.step(action)[4]["revisit"] for action, _ in moves] == [revisit for _, revisit in moves]
        assert env.step(FORWARD)[4]["revisit"] is False


def test_lanes_of_a_level() -> None:
    assert environment_spec(EMPTY_ROOM, EnvironmentConfig()) == EnvironmentSpec((980,), "uint8", 1.0, 7)
    config = EnvironmentConfig(max_episode_steps=2)
    environments = LaneEnvironments(EMPTY_ROOM, 2, 0, config, reproducible=True)
    environments.reset()
    step = environments.step(np.array([FORWARD, LEFT]))
    assert step.revisits is not None
    assert step.revisits.dtype == np.bool_
    assert step.revisits.tolist() == [False, True]
    assert environments.step(np.array([LEFT, LEFT])).truncated.all()
    assert environments.step(np.array([LEFT, LEFT])).revisits.tolist() == [False, False]
    restored = LaneEnvironments(EMPTY_ROOM, 2, 9, config, reproducible=True)
    restored.load_state_dict(environments.state_dict())
    one, other = (lanes.step(np.array([FORWARD, RIGHT])) for lanes in (environments, restored))
    np.testing.assert_array_equal(one.observations, other.observations)


def test_a_smaller_view_is_an_argument() -> None:
    spec = environment_spec(EMPTY_ROOM, EnvironmentConfig(arguments=("agent_view_size=5",)))
    assert spec.observation_shape == (20 * 5 * 5,)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "actors.environments.minigrid_levels")
    monkeypatch.setitem(sys.modules, "minigrid", None)
    with pytest.raises(UnsupportedEnvironment, match="pip install minigrid"):
        environment_spec(EMPTY_ROOM, EnvironmentConfig())
