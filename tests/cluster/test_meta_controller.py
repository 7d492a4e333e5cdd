"""Bandits by lane and shared: who is pulled, what is remembered, what survives."""

from __future__ import annotations

import json

import numpy as np
import pytest

from actors.rollout import Episode
from agent57.config import BanditConfig
from cluster.meta_controller import MetaController


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


def test_lanes_are_topped_up_to_their_demand() -> None:
    meta = MetaController(BanditConfig(), 4, num_lanes=1, seed=0)
    assert len(meta.top_up([0], [0])[0]) == 2
    meta.record([episode(0, 1, 0.0)] * 5)
    assert len(meta.top_up([0], [2])[0]) == 6 - 2


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
