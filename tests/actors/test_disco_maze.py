"""The disco maze: perfect mazes that depend on their number alone, deadly walls, and colours that are noise."""

from __future__ import annotations

import numpy as np
import pytest

from actors.environments.gridworlds.disco_maze import COLOURS, DiscoMaze, VectorDiscoMaze, maze_walls

GREEN = (0, 255, 0)
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))


def corridors(observation: np.ndarray) -> set[tuple[int, int]]:
    """Cells of an observation that are no wall; the agent must stand on one."""
    black, green = ((observation == colour).all(axis=2) for colour in ((0, 0, 0), GREEN))
    assert green.sum() == 1
    return {(int(row), int(column)) for row, column in np.argwhere(black | green)}


def agent(observation: np.ndarray) -> tuple[int, int]:
    row, column = np.argwhere((observation == GREEN).all(axis=2))[0]
    return int(row), int(column)


def neighbours(cell: tuple[int, int]) -> list[tuple[int, int]]:
    return [(cell[0] + down, cell[1] + right) for down, right in MOVES]


# 100 rooms and 99 passages; 9 and 8; 4 and 3.
@pytest.mark.parametrize(("size", "expected"), [(21, 199), (7, 17), (5, 7)])
def test_mazes_are_perfect(size: int, expected: int) -> None:
    env = VectorDiscoMaze(20, size=size)
    assert env.num_corridor_cells == expected
    for observation in env.reset(seed=0)[0]:
        cells = corridors(observation)
        assert len(cells) == expected
        assert all(0 < row < size - 1 and 0 < column < size - 1 for row, column in cells)
        assert all((row, column) in cells for row in range(1, size, 2) for column in range(1, size, 2))
        reached, frontier = {agent(observation)}, [agent(observation)]
        while frontier:
            new = [cell for cell in neighbours(frontier.pop()) if cell in cells and cell not in reached]
            reached.update(new)
            frontier += new
        assert reached == cells
        # A connected graph with one edge fewer than vertices is a tree.
        assert sum(cell in cells for one in cells for cell in neighbours(one)) == 2 * (expected - 1)


@pytest.mark.parametrize(("size", "start"), [(21, (11, 11)), (7, (3, 3)), (5, (3, 3)), (9, (5, 5))])
def test_episodes_start_next_to_the_centre(size: int, start: tuple[int, int]) -> None:
    assert {agent(observation) for observation in VectorDiscoMaze(8, size=size).reset(seed=0)[0]} == {start}


def test_mazes_depend_on_their_number_and_are_drawn_uniformly() -> None:
    numbered = [frozenset(np.flatnonzero(~maze_walls(maze, 21)[0])) for maze in range(3)]
    assert len(set(numbered)) == 3
    first, _ = VectorDiscoMaze(600, num_mazes=3).reset(seed=0)
    seen = [frozenset(21 * row + column for row, column in corridors(observation)) for observation in first]
    counts = [seen.count(maze) for maze in numbered]
    assert sum(counts) == 600
    # Five standard deviations of a binomial: sqrt(600 * 1/3 * 2/3) = 11.5.
    assert max(abs(count - 200) for count in counts) < 58
    one, other = (VectorDiscoMaze(2, num_mazes=1).reset(seed=seed)[0] for seed in (0, 5))
    assert len({frozenset(corridors(observation)) for observation in (*one, *other)}) == 1
    many = VectorDiscoMaze(100).reset(seed=0)[0]
    assert len({frozenset(corridors(observation)) for observation in many}) > 90


def test_a_step_into_a_wall_ends_the_episode_and_shows_the_agent_there() -> None:
    env = DiscoMaze(size=9)
    deaths = walked = 0
    rng = np.random.default_rng(0)
    for episode in range(60):
        observation, _ = env.reset(seed=episode)
        cells, here, visited = corridors(observation), agent(observation), set()
        terminated = False
        while not terminated:
            visited.add(here)
            action = int(rng.integers(4))
            observation, reward, terminated, truncated, info = env.step(action)
            here = neighbours(here)[action]
            assert agent(observation) == here
            assert (reward, truncated) == (0, False)
            assert terminated == (here not in cells)
            assert info["revisit"] == (here in visited)
            walked += not terminated
        deaths += 1
        black = (observation == 0).all(axis=2)
        assert {tuple(cell) for cell in np.argwhere(black)} == cells
    assert deaths == 60
    assert walked > 20


def test_a_lane_that_died_on_the_edge_begins_anew() -> None:
    env = VectorDiscoMaze(1, size=5, num_mazes=1)
    start = agent(env.reset(seed=0)[0][0])
    # From (3, 3), down and right are the edge, from which a further step would leave the array.
    for action in (2, 1):
        assert env.step(np.array([action]))[2][0]
        observations, rewards, terminated, _, _ = env.step(np.array([action]))
        assert (agent(observations[0]), rewards[0], terminated[0]) == (start, 0, False)


def wall_colours(num_colours: int, lanes: int, steps: int) -> np.ndarray:
    """Number of the colour of every wall that stays one, [steps, lanes, walls]: agents walk to and fro in one maze."""
    env = VectorDiscoMaze(lanes, num_mazes=1, num_colours=num_colours)
    observation, _ = env.reset(seed=0)
    cells, start = corridors(observation[0]), agent(observation[0])
    there = next(action for action in range(4) if neighbours(start)[action] in cells)
    walls = np.array([(r, c) for r in range(21) for c in range(21) if (r, c) not in cells]).T
    colours = []
    for t in range(steps):
        pixels = observation[:, walls[0], walls[1]]
        matches = (pixels[..., np.newaxis, :] == np.array(COLOURS)).all(axis=-1)
        assert (matches.sum(axis=-1) == 1).all()
        colours.append(matches.argmax(axis=-1))
        observation, _, terminated, _, _ = env.step(np.full(lanes, there if t % 2 == 0 else (there + 2) % 4))
        assert not terminated.any()
    return np.array(colours)


@pytest.mark.parametrize("num_colours", [2, 5, 8])
def test_wall_colours_are_uniform_and_independent(num_colours: int) -> None:
    colours = wall_colours(num_colours, lanes=6, steps=20)
    assert colours.max() == num_colours - 1
    # What must look like pairs of independent draws: next step, next wall, next lane, and all 242 walls over time.
    pairs = {
        "step": (colours[:-1], colours[1:]),
        "wall": (colours[..., :-1], colours[..., 1:]),
        "lane": (colours[:, :-1], colours[:, 1:]),
        "wall and step": (colours[:-1, :, 1:], colours[1:, :, :-1]),
    }
    for name, (one, other) in pairs.items():
        counts = np.bincount((one * num_colours + other).reshape(-1), minlength=num_colours**2)
        expected = one.size / num_colours**2
        assert np.abs(counts - expected).max() < 5 * expected**0.5, name
    per_wall = np.array([(colours == colour).sum(axis=(0, 1)) for colour in range(num_colours)])
    # 120 draws per wall.
    deviation = (120 / num_colours * (1 - 1 / num_colours)) ** 0.5
    assert np.abs(per_wall - 120 / num_colours).max() < 6 * deviation


def test_colours_change_at_every_step() -> None:
    colours = wall_colours(5, lanes=4, steps=10)
    changed = (colours[:-1] != colours[1:]).mean(axis=2)
    # 4 of 5 on average; five standard deviations over 242 walls are 0.13.
    assert np.abs(changed - 0.8).max() < 0.13


def test_walls_are_neither_corridor_nor_agent() -> None:
    assert len(set(COLOURS)) == len(COLOURS)
    assert not {(0, 0, 0), GREEN} & set(COLOURS)
