"""The rate limiter: one side may always go on, and the ratio is kept."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.rate_limiter import RateLimiter


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_interleaving_leaves_one_side_allowed_and_keeps_the_band(data: st.DataObject) -> None:
    ratio = data.draw(st.floats(0.05, 8.0))
    batch, tick = data.draw(st.integers(1, 500)), data.draw(st.integers(1, 500))
    slack = data.draw(st.floats(1.0, 3.0)) * (batch + ratio * tick)
    limiter = RateLimiter(ratio, slack, min_sequences=1)
    limiter.note_sequences(1)
    rollouts: list[int] = []
    updates: list[int] = []
    for _ in range(data.draw(st.integers(1, 60))):
        can_act = limiter.may_act(sum(rollouts) + tick)
        can_train = limiter.trainable_transitions(sum(updates)) >= batch
        if not rollouts and not updates:
            assert can_act or can_train
        choices = ["act"] * can_act + ["train"] * can_train + ["acted"] * bool(rollouts) + ["trained"] * bool(updates)
        match data.draw(st.sampled_from(choices)):
            case "act":
                rollouts.append(tick)
            case "train":
                updates.append(batch)
            case "acted":  # a killed worker delivers less than was dispatched
                limiter.record_env_steps(data.draw(st.integers(0, rollouts.pop())))
            case "trained":  # short sequences hold fewer valid transitions
                limiter.record_trained(data.draw(st.integers(0, updates.pop())))
        assert abs(limiter.lead) <= slack * (1 + 1e-9)


@pytest.mark.parametrize("first", ["act", "train"])
@pytest.mark.parametrize("ratio", [0.25, 0.8, 4.0])
def test_ratio_converges_whichever_side_is_faster(ratio: float, first: str) -> None:
    batch, tick = 640, 320
    limiter = RateLimiter(ratio, slack=batch + ratio * tick, min_sequences=10)
    limiter.note_sequences(10)
    while limiter.env_steps < 1_000_000:
        can_act, can_train = limiter.may_act(tick), limiter.trainable_transitions() >= batch
        if can_act and (first == "act" or not can_train):
            limiter.record_env_steps(tick)
        else:
            assert can_train
            limiter.record_trained(batch)
    assert limiter.ratio == pytest.approx(ratio, rel=0.02)


def test_steps_before_the_start_owe_nothing() -> None:
    limiter = RateLimiter(0.8, slack=100.0, min_sequences=50)
    limiter.note_sequences(49)
    limiter.record_env_steps(1_000_000)
    assert not limiter.started
    assert limiter.may_act(10**9)
    assert limiter.trainable_transitions() == 0
    limiter.note_sequences(50)
    assert (limiter.started, limiter.env_steps, limiter.ratio) == (True, 0, 0.0)
    assert limiter.trainable_transitions() == 100
    assert not limiter.may_act(126)
    assert limiter.may_act(125)
    limiter.note_sequences(3)  # sequences were lost with their shard
    assert limiter.started
    limiter.await_sequences()  # the supervisor says so when the whole replay is gone
    assert limiter.may_act(10**9)
    assert limiter.trainable_transitions() == 0
    limiter.note_sequences(50)
    assert limiter.started


def test_pending_work_counts_against_its_side() -> None:
    limiter = RateLimiter(2.0, slack=100.0, min_sequences=1)
    limiter.note_sequences(1)
    limiter.record_env_steps(100)
    assert limiter.trainable_transitions() == 300
    assert limiter.trainable_transitions(pending=250) == 50
    assert limiter.trainable_transitions(pending=999) == 0
    limiter.record_trained(150)
    assert limiter.ratio == 1.5
    assert limiter.may_act(25)
    assert not limiter.may_act(26)


def test_state_survives_json() -> None:
    limiter = RateLimiter(0.5, slack=10.0, min_sequences=1)
    limiter.note_sequences(1)
    limiter.record_env_steps(1000)
    limiter.record_trained(503)
    state = json.loads(json.dumps(limiter.state_dict()))
    restored = RateLimiter(0.5, slack=10.0, min_sequences=1)
    restored.load_state_dict(state)
    assert restored.state_dict() == state
    assert restored.trainable_transitions() == limiter.trainable_transitions() == 7
    faster = RateLimiter(4.0, slack=10.0, min_sequences=1)
    faster.load_state_dict(state)
    assert faster.started
    assert faster.may_act(1)  # the past at the old ratio leaves no arrears


def test_wrong_settings_and_counts_are_refused() -> None:
    for arguments in ((0.0, 1.0, 1), (1.0, 0.0, 1), (1.0, 1.0, 0)):
        with pytest.raises(ValueError, match="must be"):
            RateLimiter(*arguments)
    limiter = RateLimiter(1.0, 1.0, 1)
    with pytest.raises(ValueError, match="negative"):
        limiter.record_env_steps(-1)
    with pytest.raises(ValueError, match="negative"):
        limiter.record_trained(-1)
