"""The room with a coin: a slow model of its own, uniform starts."""

from __future__ import annotations

import numpy as np
import pytest

from actors.environments.gridworlds.random_coin import VectorRandomCoin

MOVES = {0: (-1, 0), 1: (0, 1), 2: (1, 0), 3: (0, -1)}


def place(plane: np.ndarray) -> tuple[int, int]:
    assert plane.sum() == 1
    row, column = np.argwhere(plane == 1)[0]
    return int(row), int(column)


def test_walk_to_the_coin_by_hand() -> None:
    """Agent in the corner, coin one row down and one column right: bump twice, then right, down."""
    env = VectorRandomCoin(6000, size=5)
    first, _ = env.reset(seed=0)
    seed = int(np.flatnonzero(first[:, 0, 0, 0] & first[:, 1, 1, 1])[0])
    env = VectorRandomCoin(1, size=5)
    env.reset(seed=seed)
    expected = [(0, (0, 0), 0, True), (3, (0, 0), 0, True), (1, (0, 1), 0, False), (2, (1, 1), 1, False)]
    for action, cell, reward, revisit in expected:
        observations, rewards, terminated, truncated, infos = env.step(np.array([action]))
        assert place(observations[0, 0]) == cell
        assert place(observations[0, 1]) == (1, 1)
        assert (rewards[0], terminated[0], truncated[0]) == (reward, reward == 1, False)
        assert infos["revisit"][0] == revisit


@pytest.mark.parametrize("size", [5, 6])
def test_agrees_with_a_slow_model(size: int) -> None:
    env = VectorRandomCoin(4, size=size)
    rng = np.random.default_rng(0)
    observations, _ = env.reset(seed=0)
    agents, coins = [place(o[0]) for o in observations], [place(o[1]) for o in observations]
    visited = [{agent} for agent in agents]
    found = 0
    for _ in range(300):
        actions = rng.integers(4, size=4)
        ended = [agents[lane] == coins[lane] for lane in range(4)]
        observations, rewards, terminated, _, infos = env.step(actions)
        for lane in range(4):
            now, coin = place(observations[lane, 0]), place(observations[lane, 1])
            if ended[lane]:
                agents[lane], coins[lane], visited[lane] = now, coin, {now}
                assert now != coin
                assert (rewards[lane], terminated[lane], infos["revisit"][lane]) == (0, False, False)
                continue
            down, right = MOVES[int(actions[lane])]
            target = (agents[lane][0] + down, agents[lane][1] + right)
            if 0 <= target[0] < size and 0 <= target[1] < size:
                agents[lane] = target
            assert (now, coin) == (agents[lane], coins[lane])
            assert rewards[lane] == terminated[lane] == (now == coin)
            assert infos["revisit"][lane] == (now in visited[lane])
            visited[lane].add(now)
            found += now == coin
    assert found > 5


def test_agent_and_coin_start_in_distinct_uniform_cells() -> None:
    episodes = 6000
    first, _ = VectorRandomCoin(episodes, size=5).reset(seed=0)
    agents, coins = (first[:, plane].reshape(episodes, 25).argmax(axis=1) for plane in (0, 1))
    pairs = np.zeros((25, 25), np.int64)
    np.add.at(pairs, (agents, coins), 1)
    assert np.trace(pairs) == 0
    # Each of the 600 other pairs is expected 10 times: six standard deviations of a Poisson count.
    assert pairs.max() < 10 + 6 * 10**0.5
    # Each row and column is expected 240 times.
    for counts in (pairs.sum(axis=0), pairs.sum(axis=1)):
        assert np.abs(counts - 240).max() < 5 * 240**0.5
