"""MiniGrid levels as Agent57 takes them: `--env actors.environments.minigrid_levels:Agent57/MiniGrid-MultiRoom-N6-v0`.

Importing this registers `Agent57/MiniGrid-X` for every `MiniGrid-X` there is, and `Agent57/MiniGridMoves-X`, the same
with the four actions that do something where nothing can be carried. It is imported by name only, since MiniGrid
(Chevalier-Boisvert et al. 2023) is optional.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

try:
    import minigrid  # noqa: F401 (registers the levels)
    from minigrid.core.actions import Actions
    from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX
    from minigrid.core.grid import Grid
    from minigrid.core.world_object import Wall
    from minigrid.minigrid_env import MiniGridEnv
except ImportError as error:
    raise ImportError(f"{error}: pip install minigrid") from error

# One plane each for 11 kinds of object, 6 colours, and a door's 3 states.
NUM_VALUES = np.array([len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX)])
FIRST_PLANES = np.cumsum(NUM_VALUES) - NUM_VALUES
NUM_PLANES = int(NUM_VALUES.sum())
MOVES = (Actions.left, Actions.right, Actions.forward, Actions.toggle)


class AgentView(gymnasium.Wrapper, RecordConstructorArgs):
    """The agent's partial view as planes of 0 and 1, flattened: uint8 (20 * 7 * 7,), plane first, then x, then y.

    Neither the mission nor the direction is observed. ``info["revisit"]``: the agent was on this cell before in this
    episode, whatever its direction.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Dict)
        width, height, _ = env.observation_space["image"].shape  # type: ignore[misc]
        self._num_cells = width * height
        self.observation_space = spaces.Box(0, 1, (NUM_PLANES * self._num_cells,), np.uint8)
        # Where the first plane of each part of a cell's code has this cell.
        self._places = FIRST_PLANES * self._num_cells + np.arange(self._num_cells)[:, np.newaxis]
        self._visited: set[tuple[int, int]] = set()
        level = env.unwrapped
        assert isinstance(level, MiniGridEnv)
        level.gen_obs_grid = partial(view_of, level)  # type: ignore[method-assign]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """First view of a new episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._visited.clear()
        return self._planes(observation["image"]), info | {"revisit": self._revisit()}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """What one action brings, with the view as planes."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        info = info | {"revisit": self._revisit()}
        return self._planes(observation["image"]), float(reward), terminated, truncated, info

    def _planes(self, image: np.ndarray) -> np.ndarray:
        planes = np.zeros(NUM_PLANES * self._num_cells, np.uint8)
        values = image.reshape(self._num_cells, 3).astype(np.intp)
        planes[values * self._num_cells + self._places] = 1
        return planes

    def _revisit(self) -> bool:
        x, y = self.env.unwrapped.agent_pos  # type: ignore[attr-defined]
        position = (int(x), int(y))
        if position in self._visited:
            return True
        self._visited.add(position)
        return False


def view_of(level: MiniGridEnv, agent_view_size: int | None = None) -> tuple[Grid, np.ndarray]:
    """(what the agent sees, which cells of it are not hidden): ``MiniGridEnv.gen_obs_grid`` with the same results.

    That one cuts the view out and turns it cell by cell, which takes over half of a level's time; this one moves rows.
    """
    left, top, right, bottom = level.get_view_exts(agent_view_size)
    width, height, cells, wall = level.grid.width, level.grid.height, level.grid.grid, Wall()
    rows: list[Any] = [[wall] * (right - left) for _ in range(top, bottom)]
    for y in range(max(top, 0), min(bottom, height)):
        inside = cells[y * width + max(left, 0) : y * width + min(right, width)]
        rows[y - top] = [wall] * max(-left, 0) + inside + [wall] * max(right - width, 0)
    for _ in range(level.agent_dir + 1):
        rows = list(zip(*rows, strict=True))[::-1]
    side = right - left
    seen = Grid(side, side)
    seen.grid = [cell for row in rows for cell in row]
    own = (side // 2, side - 1)
    visible = np.ones((side, side), bool) if level.see_through_walls else seen.process_vis(own)
    # The agent sees what it carries where it stands.
    seen.set(*own, level.carrying)
    return seen, visible


class MovesOnly(gymnasium.ActionWrapper, RecordConstructorArgs):
    """Four actions: turn left, turn right, go forward, open or close a door. Left out: pick up, drop, done."""

    def __init__(self, env: gymnasium.Env) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.action_space = spaces.Discrete(len(MOVES))

    def action(self, action: int) -> int:
        """MiniGrid's number of the action."""
        return int(MOVES[action])


for _level in [spec for spec in gymnasium.registry.values() if spec.id.startswith("MiniGrid-")]:
    for _name, _wrappers in (
        (_level.id, (AgentView.wrapper_spec(),)),
        (_level.id.replace("MiniGrid-", "MiniGridMoves-", 1), (AgentView.wrapper_spec(), MovesOnly.wrapper_spec())),
    ):
        gymnasium.register(
            f"Agent57/{_name}",
            _level.entry_point,
            max_episode_steps=_level.max_episode_steps,
            kwargs=_level.kwargs,
            additional_wrappers=(*_level.additional_wrappers, *_wrappers),
        )
