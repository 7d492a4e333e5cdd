"""Bandits by lane and shared: who is pulled, what is remembered, what survives."""

from __future__ import annotations

import json
from collections import deque

import numpy as np
import pytest

from actors.rollout import Episode
from agent57.config import BanditConfig
from cluster.runtime.meta_controller import MAX_AHEAD, MetaController


def episode(lane: int, arm: int, value: float) -> Episode:
    return Episode(lane, arm, 0.1, value, 0.0, 10)


def test_each_lane_has_its_own_bandit() -> None:
    meta = MetaController(BanditConfig(epsilon=0.0, ucb_bonus=0.0), num_policies=2, num_lanes=2, seed=0)
    meta.top_up([0, 1], [0, 0])  # two arms each: every arm once
    meta.record([episode(0, 0, 5.0), episode(0, 1, 1.0), episode(1, 0, 1.0), episode(1, 1, 5.0)])
    arms = meta.top_up([0, 1], [0, 0])
    assert set(arms[0]) == {0}
    assert set(arms[1]) == {1}


def test_a_shared_bandit_pools_all_lanes() -> None:
    meta = MetaController(BanditConfig(epsilon=0.0, ucb_bonus=0.0, scope="shared"), 2, num_lanes=3, seed=0)
    meta.top_up([0], [0])
    meta.record([episode(0, 0, 1.0), episode(1, 1, 4.0)])
    arms = meta.top_up([0, 1, 2], [0, 0, 0])
    assert {arm for queue in arms for arm in queue} == {1}


def test_no_pull_is_counted_before_an_episode_ended() -> None:
    meta = MetaController(BanditConfig(), 4, num_lanes=2, seed=0)
    meta.top_up([0, 1], [0, 0])
    assert meta.counts.sum() == 0
    assert meta.favourite_arm() == 0


def test_lanes_are_topped_up_to_a_demand_that_is_bounded_and_decays() -> None:
    meta = MetaController(BanditConfig(assignment="per_lane"), 4, num_lanes=1, seed=0)
    assert meta.top_up([0], [0]) == [[0, 0]]  # one to play, one for when it ends
    assert meta.top_up([0], [1]) == [[]]
    meta.record([episode(0, 0, 0.0)] * 5)
    assert meta.top_up([0], [0]) == [[0] * MAX_AHEAD]
    for _ in range(5):
        meta.record([episode(0, 0, 0.0)])
    assert meta.top_up([0], [0]) == [[0, 0]]


def shares_of_equal_arms(num_lanes: int, num_arms: int, episodes: int) -> tuple[np.ndarray, list[int]]:
    """(mean over time of the sorted shares of a shared bandit's window, lags between choice and play).

    The arms' returns are the same noise; every lane plays episodes of 15 to 25 requests, as Pong's lanes do.
    """
    config = BanditConfig(window=160, epsilon=0.2, scope="shared", normalize_returns=True)
    meta = MetaController(config, num_arms, num_lanes, seed=1)
    rng = np.random.default_rng(1)
    queues: list[deque[int]] = [deque() for _ in range(num_lanes)]
    playing, left = [-1] * num_lanes, rng.integers(1, 40, num_lanes)
    shares, lags, done = [], [], 0
    while done < episodes:
        for queue, more in zip(queues, meta.top_up(range(num_lanes), [len(queue) for queue in queues]), strict=True):
            queue.extend(more)
        ended = []
        for lane in range(num_lanes):
            playing[lane] = queues[lane].popleft() if playing[lane] < 0 else playing[lane]
            left[lane] -= 1
            if left[lane] == 0:
                ended.append(episode(lane, playing[lane], rng.normal()))
                playing[lane], left[lane] = -1, rng.integers(15, 26)
        lags += meta.record(ended)
        done += len(ended)
        if done > episodes / 3:
            shares.append(np.sort(meta.counts / meta.counts.sum()))
    return np.mean(shares, 0), lags


def test_lanes_that_share_a_bandit_do_not_herd() -> None:
    """Without counting the choices in flight the largest share is 0.40 and the smallest 0.015."""
    shares, lags = shares_of_equal_arms(num_lanes=32, num_arms=8, episodes=3000)
    assert shares[-1] < 0.27
    assert shares[0] > 0.033
    assert np.median(lags) <= 1
    assert max(lags) <= MAX_AHEAD


def test_lanes_that_ask_together_get_different_arms() -> None:
    meta = MetaController(BanditConfig(scope="shared", epsilon=0.0), 4, num_lanes=8, seed=0)
    meta.record([episode(6 + arm % 2, arm, 1.0) for arm in range(4)])
    meta.top_up([0, 1], [0, 0])  # the first N choices
    arms = [arm for queue in meta.top_up([2, 3, 4, 5], [0] * 4) for arm in queue]
    assert sorted(arms) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_what_a_lost_worker_was_told_to_play_is_no_pull() -> None:
    meta = MetaController(BanditConfig(scope="shared", epsilon=0.0), 2, num_lanes=2, seed=0)
    meta.record([episode(1, 0, 1.0), episode(1, 1, 0.0)])
    meta.top_up([0], [0])
    meta.abandon([0])
    alone = MetaController(BanditConfig(scope="shared", epsilon=0.0), 2, num_lanes=2, seed=0)
    alone.record([episode(1, 0, 1.0), episode(1, 1, 0.0)])
    alone.top_up([0], [0])
    alone.abandon([0])
    assert meta.state_dict()["flying"] == [[], []]
    assert meta.top_up([1], [0]) == alone.top_up([1], [0])


def test_an_arm_that_a_lane_played_again_ends_no_choice_of_its_own() -> None:
    """A lane that runs out plays its last arm again; what flies is settled when the lane says what it holds."""
    meta = MetaController(BanditConfig(assignment="per_lane"), 4, num_lanes=3, seed=0)
    assert meta.top_up([2], [0]) == [[2, 2]]
    assert meta.record([episode(2, 2, 0.0)] * 3) == [0, 1]
    assert meta.record([episode(2, 1, 0.0)]) == []
    assert meta.state_dict()["flying"][2] == []


def test_favourite_arm_has_the_best_mean_over_all_lanes() -> None:
    meta = MetaController(BanditConfig(), 3, num_lanes=2, seed=0)
    meta.record([episode(0, 1, 2.0), episode(1, 1, 4.0), episode(0, 2, 3.5)])
    assert meta.favourite_arm() == 2
    np.testing.assert_allclose(meta.means, [np.nan, 3.0, 3.5])


@pytest.mark.parametrize("scope", ["lane", "shared"])
def test_state_survives(scope: str) -> None:
    config = BanditConfig(scope=scope)
    meta = MetaController(config, 4, num_lanes=2, seed=0)
    meta.top_up([0, 1], [0, 0])
    meta.record([episode(0, 1, 2.0), episode(1, 3, 4.0)])
    other = MetaController(config, 4, num_lanes=2, seed=99)
    other.load_state_dict(meta.state_dict())
    json.dumps(meta.state_dict()["bandits"])
    for _ in range(20):
        assert other.top_up([0, 1], [0, 0]) == meta.top_up([0, 1], [0, 0])


def test_more_lanes_than_before_start_afresh_and_others_go_on() -> None:
    meta = MetaController(BanditConfig(), 4, num_lanes=1, seed=0)
    meta.record([episode(0, 3, 7.0)])
    wider = MetaController(BanditConfig(), 4, num_lanes=3, seed=0)
    wider.load_state_dict(meta.state_dict())
    assert wider.counts.tolist() == [0, 0, 0, 1]


def test_another_scope_is_refused() -> None:
    meta = MetaController(BanditConfig(scope="shared"), 4, num_lanes=1, seed=0)
    with pytest.raises(ValueError, match="scope"):
        meta.load_state_dict(MetaController(BanditConfig(), 4, 1, 0).state_dict())


def test_a_return_that_is_not_finite_is_no_pull() -> None:
    meta = MetaController(BanditConfig(), 4, num_lanes=2, seed=0)
    meta.top_up([0, 1], [0, 0])
    meta.record([episode(0, 0, float("nan")), episode(0, 0, 2.0), episode(1, 1, float("-inf"))])
    assert meta.counts.tolist() == [1, 0, 0, 0]
    assert meta.refused_returns == 2
