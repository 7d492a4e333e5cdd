"""A maze whose walls change colour at every step: novelty that an agent must learn to ignore.

NGU section 4.1 ("Random Disco Maze"). There is no reward: what is asked is how much of the maze gets explored.
"""

from __future__ import annotations

import functools

import numpy as np
from gymnasium import spaces

from actors.environments.gridworlds.vector_gridworld import BLACK, GREEN, MOVES, GridworldEnv, VectorGridworld
from agent57.config import require

COLOURS = (
    (255, 0, 0),
    (0, 0, 255),
    (255, 255, 0),
    (255, 0, 255),
    (0, 255, 255),
    (255, 255, 255),
    (255, 128, 0),
    (128, 128, 128),
)
# A wall's colour number is an index; a corridor comes after the colours, then the agent. Numpy gathers words several
# times faster than rows of three bytes, so a pixel is four bytes here and the fourth is cut off afterwards.
_CORRIDOR, _AGENT = len(COLOURS), len(COLOURS) + 1
_PALETTE = np.array([(*colour, 0) for colour in (*COLOURS, BLACK, GREEN)], np.uint8).view(np.uint32)[:, 0]


class VectorDiscoMaze(VectorGridworld):
    """The reward is 0 throughout; a step into a wall ends the episode, with the agent shown on the wall.

    Every episode plays one of ``num_mazes`` perfect mazes (no cycles), drawn uniformly; maze m is the same for all
    lanes and seeds. The agent starts in the room next to the centre, row and column ``2 * (rooms // 2) + 1`` with
    ``rooms = (size - 1) // 2`` a side: (11, 11) of 21 x 21. Actions: up, right, down, left. Observations: uint8
    (size, size, 3), RGB: black corridors, a green agent, and walls each of which has one of the first ``num_colours``
    COLOURS, drawn anew for every observation.
    """

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        size: int = 21,
        num_colours: int = 5,
        num_mazes: int = 10_000,
    ) -> None:
        require(isinstance(size, int) and size >= 5 and size % 2 == 1, "size must be an odd integer of at least 5")
        require(
            isinstance(num_colours, int) and 1 <= num_colours <= len(COLOURS),
            f"num_colours must be an integer from 1 to {len(COLOURS)}",
        )
        require(isinstance(num_mazes, int) and num_mazes >= 1, "num_mazes must be an integer of at least 1")
        space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        super().__init__(num_envs, space, 4, size * size, max_episode_steps, render_mode)
        rooms = (size - 1) // 2
        self.size, self.num_colours, self.num_mazes = size, num_colours, num_mazes
        self.num_corridor_cells = 2 * rooms**2 - 1
        """Cells that can be visited: all rooms and the passages of a tree between them."""
        self._start = (2 * (rooms // 2) + 1) * (size + 1)
        self._walls = np.zeros((num_envs, size * size), np.bool_)
        self._keys = np.zeros(num_envs, np.uint64)
        # Perfect mazes of one size all have the same number of walls.
        self._wall_cells = np.zeros((num_envs, size * size - self.num_corridor_cells), np.int64)
        self._first_pixels = self._lanes[:, np.newaxis] * size * size
        self._moves = MOVES @ (size, 1)

    def _begin(self, lane: int, generator: np.random.Generator) -> int:
        maze = int(generator.integers(self.num_mazes))
        self._walls[lane], self._wall_cells[lane] = maze_walls(maze, self.size)
        self._keys[lane] = generator.integers(2**64, dtype=np.uint64)
        return self._start

    def _move(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        # All around is wall, so a lane that moves is never on the edge.
        arrived = self._cells + self._moves[actions]
        return arrived, np.zeros(self.num_envs), self._walls[self._lanes, arrived]

    def _observe(self) -> np.ndarray:
        step_keys = random_bits(self._keys, self._steps.astype(np.uint64))
        bits = random_bits(step_keys[:, np.newaxis], self._wall_cells.view(np.uint64))
        image = np.full(self.num_envs * self.size**2, _CORRIDOR, np.uint8)
        image[self._first_pixels + self._wall_cells] = below(self.num_colours, bits)
        image[self._first_pixels[:, 0] + self._cells] = _AGENT
        return _PALETTE.take(image).view(np.uint8).reshape(self.num_envs, self.size, self.size, 4)[..., :3]

    def _picture(self, lane: int) -> np.ndarray:
        return self._observe()[lane]


class DiscoMaze(GridworldEnv):
    """The same, one at a time."""

    vector_class = VectorDiscoMaze


@functools.lru_cache(maxsize=16_384)
def maze_walls(maze: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(wall or not, bool [size * size]; the cells that are walls) of maze number ``maze``, both read-only.

    A random spanning tree of the rooms, dug depth first (the "recursive backtracker").

    Rooms are the cells with odd row and column; a passage opens the wall between two of them.
    """
    walls = np.ones(size * size, np.bool_)
    # Two rows of padding: what lies outside, also at a negative index, is no unvisited room.
    unvisited = [False] * (size + 2) * size
    for row in range(1, size, 2):
        for cell in range(row * size + 1, (row + 1) * size, 2):
            unvisited[cell] = True
    # As with the colours, no library's generator decides: mazes stay the same whatever its version.
    draws = iter(random_bits(np.uint64(maze), np.arange(size * size, dtype=np.uint64)).tolist())
    moves = (2 * MOVES @ (size, 1)).tolist()
    path = [size + 1]
    walls[size + 1] = unvisited[size + 1] = False
    while path:
        cell = path[-1]
        rooms = [cell + move for move in moves if unvisited[cell + move]]
        if rooms:
            room = rooms[next(draws) % len(rooms)]
            walls[room] = walls[(cell + room) // 2] = unvisited[room] = False
            path.append(room)
        else:
            path.pop()
    wall_cells = np.flatnonzero(walls)
    walls.setflags(write=False)
    wall_cells.setflags(write=False)
    return walls, wall_cells


def random_bits(keys: np.ndarray | np.uint64, counters: np.ndarray) -> np.ndarray:
    """64 random bits for each (key, counter), all uint64: the output function of SplitMix64 (Steele et al. 2014)."""
    bits = keys + (counters + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def below(limit: int, bits: np.ndarray) -> np.ndarray:
    """Uniform numbers in 0..limit-1 from 64 random bits each, of which the upper 32 serve."""
    return ((bits >> np.uint64(32)) * np.uint64(limit)) >> np.uint64(32)
