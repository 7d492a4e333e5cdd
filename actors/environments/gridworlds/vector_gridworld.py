"""L copies of a gridworld stepped together as numpy arrays, and the same with one lane as an ordinary environment.

**Next-step autoreset.** The step that ends an episode returns its final observation. The next step ignores that
lane's action and returns the first observation of a new episode with reward 0 and both flags False.

**Lanes are independent.** What happens in a lane is a function of its seed and its actions, whatever the other lanes
do and however many there are, so that a lane can be restored by playing its episode again. A lane's generator is
asked only when an episode begins.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from agent57.config import require

UP, RIGHT, DOWN, LEFT = range(4)
# (row, column) of each move above.
MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])

BLACK, WHITE, GREY, GREEN, YELLOW = (0, 0, 0), (255, 255, 255), (128, 128, 128), (0, 255, 0), (255, 255, 0)
PIXELS_PER_CELL = 8

StepResult = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class VectorGridworld(VectorEnv):
    """L copies of a gridworld whose agent is in one of ``num_cells`` cells; subclasses give the four methods below.

    ``infos["revisit"]`` bool [L]: the agent was in this cell before in this episode (False at its first observation).
    ``max_episode_steps``: steps after which an episode is truncated, as by Gymnasium's TimeLimit also if it
    terminates in that step; None for never. All returned arrays are the caller's.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium's name and type)
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "render_modes": ["rgb_array"],
        "render_fps": 10,
    }

    def __init__(
        self,
        num_envs: int,
        observation_space: spaces.Box,
        num_actions: int,
        num_cells: int,
        max_episode_steps: int | None,
        render_mode: str | None,
    ) -> None:
        require(num_envs >= 1, "num_envs must be at least 1")
        require(max_episode_steps is None or max_episode_steps >= 1, "max_episode_steps must be at least 1")
        require(render_mode in (None, "rgb_array"), "render_mode must be rgb_array or None")
        self.num_envs, self.max_episode_steps, self.render_mode = num_envs, max_episode_steps, render_mode
        self.single_observation_space, self.single_action_space = observation_space, spaces.Discrete(num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.generators = [seeding.np_random()[0] for _ in range(num_envs)]
        self._lanes = np.arange(num_envs)
        self._cells = np.zeros(num_envs, np.int64)
        self._steps = np.zeros(num_envs, np.int64)
        self._visited = np.zeros((num_envs, num_cells), np.bool_)
        self._revisit = np.zeros(num_envs, np.bool_)
        self._ended = np.zeros(num_envs, np.bool_)
        self._was_reset = False

    @abstractmethod
    def _begin(self, lane: int, generator: np.random.Generator) -> int:
        """The cell in which a new episode of ``lane`` starts, after drawing whatever else the episode needs."""

    @abstractmethod
    def _move(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(cells arrived in, rewards, terminated), each [L], from ``self._cells``; changes nothing."""

    @abstractmethod
    def _observe(self) -> np.ndarray:
        """Observations [L, ...] of where all lanes are, in a new array."""

    @abstractmethod
    def _picture(self, lane: int) -> np.ndarray:
        """Colours uint8 [height, width, 3] of the lane's cells."""

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generators of all lanes, as SyncVectorEnv gives them."""
        return tuple(self.generators)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """First observations of new episodes in the lanes of ``options["reset_mask"]`` (bool [L]; without it, in all).

        Seeds are one per lane, or one int for seed + lane; a lane whose seed is None goes on with its generator.
        The other lanes stay where they are.
        """
        begins = self._reset_mask(options)
        seeds = [None] * self.num_envs if seed is None else seed
        if isinstance(seeds, int | np.integer):
            seeds = [int(seeds) + lane for lane in range(self.num_envs)]
        if len(seeds) != self.num_envs:
            raise ValueError(f"{self.num_envs} lanes need as many seeds, got {len(seeds)}")
        for lane in map(int, np.flatnonzero(begins)):
            if (own := seeds[lane]) is not None:
                self.generators[lane] = seeding.np_random(int(own))[0]
        self._begin_episodes(begins)
        self._ended &= ~begins
        self._was_reset = True
        return self._observe(), self._infos()

    def step(self, actions: np.ndarray) -> StepResult:
        """(observations, rewards float64, terminated, truncated, infos) of one action per lane."""
        if not self._was_reset:
            raise gymnasium.error.ResetNeeded("reset comes before the first step")
        actions = np.asarray(actions)
        assert isinstance(self.single_action_space, spaces.Discrete)
        num_actions = int(self.single_action_space.n)
        if not ((actions >= 0) & (actions < num_actions)).all():
            raise ValueError(f"the actions are 0 to {num_actions - 1}, got {actions}")
        begins = self._ended
        moves = ~begins
        # First the new episodes: a lane that was left on a final cell could move nowhere.
        self._begin_episodes(begins)
        arrived, rewards, terminated = self._move(actions)
        self._cells = np.where(moves, arrived, self._cells)
        self._steps += moves
        self._revisit = self._visited[self._lanes, self._cells] & moves
        self._visited[self._lanes, self._cells] = True
        terminated = terminated & moves
        truncated = np.zeros(self.num_envs, np.bool_)
        if self.max_episode_steps is not None:
            truncated |= self._steps >= self.max_episode_steps
        self._ended = terminated | truncated
        return self._observe(), rewards * moves, terminated, truncated, self._infos()

    def render(self) -> tuple[np.ndarray, ...] | None:
        """An RGB picture per lane, uint8 [height, width, 3], or None without ``render_mode``."""
        if self.render_mode is None:
            return None
        pictures = [self._picture(lane) for lane in range(self.num_envs)]
        return tuple(picture.repeat(PIXELS_PER_CELL, 0).repeat(PIXELS_PER_CELL, 1) for picture in pictures)

    def _begin_episodes(self, begins: np.ndarray) -> None:
        for lane in np.flatnonzero(begins):
            cell = self._begin(int(lane), self.generators[lane])
            self._cells[lane], self._steps[lane], self._revisit[lane] = cell, 0, False
            self._visited[lane] = False
            self._visited[lane, cell] = True

    def _reset_mask(self, options: dict[str, Any] | None) -> np.ndarray:
        mask = (options or {}).get("reset_mask")
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        if not (isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == (self.num_envs,)):
            raise ValueError(f"reset_mask must be a bool array with {self.num_envs} entries, got {mask!r}")
        if not self._was_reset and not mask.all():
            raise gymnasium.error.ResetNeeded("the first reset begins an episode in every lane")
        return mask.copy()

    def _infos(self) -> dict[str, np.ndarray]:
        # Gymnasium's vector environments say under _name which lanes have an entry.
        return {"revisit": self._revisit.copy(), "_revisit": np.ones(self.num_envs, np.bool_)}


class GridworldEnv(gymnasium.Env):
    """One lane of ``vector_class`` without autoreset; ``arguments`` are those of ``vector_class``.

    ``info["revisit"]``: the agent was in this cell before in this episode. `gymnasium.make` adds the time limit.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    vector_class: ClassVar[type[VectorGridworld]]

    def __init__(self, render_mode: str | None = None, **arguments: Any) -> None:
        self._world = self.vector_class(num_envs=1, render_mode=render_mode, **arguments)
        self.render_mode = render_mode
        self.observation_space = self._world.single_observation_space
        self.action_space = self._world.single_action_space
        self._ended = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """First observation of a new episode."""
        super().reset(seed=seed)
        # The lane draws from this environment's own generator, which anyone may have set.
        self._world.generators[0] = self.np_random
        observations, infos = self._world.reset()
        self._ended = False
        return observations[0], _first_lane(infos)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """What one action brings; raises ResetNeeded after the end of an episode."""
        if self._ended:
            raise gymnasium.error.ResetNeeded("the episode has ended or never began: reset first")
        observations, rewards, terminated, truncated, infos = self._world.step(np.array([action]))
        self._ended = bool(terminated[0] or truncated[0])
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), _first_lane(infos)

    def render(self) -> np.ndarray | None:
        """An RGB picture, uint8 [height, width, 3], or None without ``render_mode``."""
        pictures = self._world.render()
        return None if pictures is None else pictures[0]


def _first_lane(infos: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: values[0].item() for name, values in infos.items() if not name.startswith("_")}
