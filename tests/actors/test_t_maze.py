"""The T-maze, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from actors.environments.gridworlds.t_maze import VectorTMaze

UP, RIGHT, DOWN, LEFT = range(4)
CUE_UP, CUE_DOWN, CORRIDOR, JUNCTION = range(4)


def seed_with(cue: int) -> int:
    cues = VectorTMaze(64).reset(seed=0)[0].argmax(axis=1)
    return int(np.flatnonzero(cues == cue)[0])


@pytest.mark.parametrize("cue", [CUE_UP, CUE_DOWN])
@pytest.mark.parametrize("choice", [UP, DOWN])
def test_corridor_junction_and_choice(cue: int, choice: int) -> None:
    """Corridor of 3: walls, back to the start, where no cue is left, then to the junction, away, back, and a side."""
    env = VectorTMaze(1, corridor=3)
    observations, infos = env.reset(seed=seed_with(cue))
    assert observations.dtype == np.float32
    assert observations[0].tolist() == [float(cue == kind) for kind in range(4)]
    assert not infos["revisit"][0]
    # (action, what is seen, revisit)
    walk = [
        (LEFT, CORRIDOR, True),
        (UP, CORRIDOR, True),
        (RIGHT, CORRIDOR, False),
        (DOWN, CORRIDOR, True),
        (LEFT, CORRIDOR, True),
        (RIGHT, CORRIDOR, True),
        (RIGHT, CORRIDOR, False),
        (RIGHT, JUNCTION, False),
        (RIGHT, JUNCTION, True),
        (LEFT, CORRIDOR, True),
        (RIGHT, JUNCTION, True),
    ]
    for action, seen, revisit in walk:
        observations, rewards, terminated, _, infos = env.step(np.array([action]))
        assert observations[0].tolist() == [float(seen == kind) for kind in range(4)]
        assert (rewards[0], terminated[0], infos["revisit"][0]) == (0, False, revisit)
    observations, rewards, terminated, truncated, infos = env.step(np.array([choice]))
    right = (choice == UP) == (cue == CUE_UP)
    assert (rewards[0], terminated[0], truncated[0]) == (1 if right else -1, True, False)
    assert not infos["revisit"][0]
    assert observations[0].sum() == 1
    observations, rewards, terminated, truncated, infos = env.step(np.array([RIGHT]))
    assert observations[0].argmax() in (CUE_UP, CUE_DOWN)
    assert (rewards[0], terminated[0], truncated[0], infos["revisit"][0]) == (0, False, False, False)


def test_cue_is_a_fair_coin() -> None:
    cues = VectorTMaze(4000).reset(seed=0)[0].sum(axis=0)
    assert cues[2:].tolist() == [0, 0]
    # Five standard deviations of a binomial: sqrt(4000 / 4) = 31.6.
    assert abs(cues[0] - 2000) < 158


def test_junction_is_as_far_as_the_corridor_is_long() -> None:
    env = VectorTMaze(1)
    env.reset(seed=0)
    seen = [env.step(np.array([RIGHT]))[0].argmax() for _ in range(20)]
    assert seen == [CORRIDOR] * 19 + [JUNCTION]
