"""Nothing that is not finite, or not as the spaces say, gets past an environment's door."""

from __future__ import annotations

import itertools
import signal
from typing import Any

import numpy as np
import pytest

from actors.config import ActorConfig
from actors.environments.contract import EnvironmentConfig, LaneEnvironments
from actors.environments.door import EnvironmentFault, EnvironmentRaised, Refused, flag_of, revisit_of, reward_of
from actors.lanes import Lanes, LaneStep
from actors.rollout import RolloutWorker
from agent57.networks import flatten_weights
from tests.cluster.tiny import tiny_config

HOSTILE = "tests.hostile_environments:Hostile-v0"
VALUES = ["nan observation", "inf observation", "huge observation", "shape", "words", "ragged", "flag", "four values"]
VALUES += ["nan reward", "inf reward", "huge reward", "no reward", "array reward", "word reward", "long reward"]


def play(environments: LaneEnvironments, steps: int) -> None:
    environments.reset()
    for _ in range(steps):
        environments.step(np.ones(environments.num_lanes, np.int64))


def hostile(fault: str, lanes: int = 2, reproducible: bool = False, **arguments: Any) -> LaneEnvironments:
    given = (f"fault={fault}", *(f"{name}={value}" for name, value in arguments.items()))
    return LaneEnvironments(HOSTILE, lanes, 0, EnvironmentConfig(arguments=given), reproducible)


@pytest.mark.parametrize("fault", VALUES)
def test_a_value_that_cannot_be_used_costs_its_episode(fault: str) -> None:
    # The corridor's wrappers unpack what step returns, so there four values are an exception.
    if fault == "four values":
        with pytest.raises(EnvironmentRaised, match=r"lane 0, step 1 of its episode.*truncated, info"):
            play(hostile(fault), 1)
        return
    environments = hostile(fault, every=1 / 30)
    environments.reset()
    ended, broken, steps = np.zeros(2, np.bool_), 0, np.zeros(2, np.int64)
    for _ in range(400):
        result = environments.step(np.ones(2, np.int64))
        assert result.observations.dtype == result.rewards.dtype == np.float32
        assert np.abs(result.observations).max() <= 1
        assert set(result.rewards.tolist()) <= {0.0, 1.0}
        abandoned = np.zeros(2, np.bool_) if result.abandoned is None else result.abandoned
        broken += int(abandoned.sum())
        starts = ended | abandoned
        assert not result.rewards[starts].any()
        assert not (result.terminated | result.truncated)[starts].any()
        steps = np.where(starts, 0, steps + 1)
        ended = result.terminated | result.truncated
        assert np.array_equal(ended, steps == 10), "the new episode is a whole one"
    told = environments.take_faults()
    # A reset that goes wrong twice in a row is one new episode, and two faults.
    assert len(told) >= broken > 5
    assert all(text.startswith(f"{HOSTILE}, lane ") and "of its episode: its" in text for text in told)
    assert environments.take_faults() == []


@pytest.mark.parametrize("after", [0, 100])
@pytest.mark.parametrize("fault", ["nan observation", "inf reward", "shape"])
def test_an_environment_that_turns_bad_for_ever_is_given_up(fault: str, after: int) -> None:
    with pytest.raises(EnvironmentFault, match="no episode ended well") as raised:
        play(hostile(fault, after=after), 300)
    assert HOSTILE in str(raised.value)
    assert "\n" not in str(raised.value)


def test_episodes_none_of_which_ends_well_are_given_up_however_long_they_are() -> None:
    with pytest.raises(EnvironmentFault, match="the 100th such fault"):
        play(hostile("nan reward", every=1 / 150, length=10_000), 40_000)


def test_a_rare_fault_in_long_episodes_is_not_given_up() -> None:
    environments = hostile("nan reward", every=1 / 100, length=200)
    play(environments, 10_000)
    assert len(environments.take_faults()) > 100


@pytest.mark.parametrize(("fault", "words"), [("exit", "SystemExit"), ("raise", "RuntimeError: the emulator tripped")])
def test_exceptions_become_faults_that_name_lane_and_step(fault: str, words: str) -> None:
    with pytest.raises(EnvironmentRaised, match=rf"Hostile-v0, lane 0, step 3 of its episode raised {words}"):
        play(hostile(fault, after=3), 5)


def test_an_interrupt_is_a_fault_where_no_key_can_have_caused_it(monkeypatch: pytest.MonkeyPatch) -> None:
    environments = hostile("interrupt")
    environments.reset()
    monkeypatch.setattr("actors.environments.door.signal.getsignal", lambda number: signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        environments.step(np.ones(2, np.int64))
    monkeypatch.setattr("actors.environments.door.signal.getsignal", lambda number: print)
    with pytest.raises(EnvironmentRaised, match="raised KeyboardInterrupt"):
        environments.step(np.ones(2, np.int64))


@pytest.mark.parametrize("fault", ["", "ragged info", "foreign revisit", "list", "float64"])
def test_what_is_only_odd_gets_in(fault: str) -> None:
    environments = hostile(fault)
    first = environments.reset()
    kept = first.copy()
    for _ in range(30):
        result = environments.step(np.ones(2, np.int64))
        assert result.revisits is None
        assert result.abandoned is None
    np.testing.assert_array_equal(first, kept)
    assert len(np.unique(result.observations, axis=0)) == 2


def test_floats_do_not_pass_for_bytes() -> None:
    environments = hostile("uint8")
    with pytest.raises(EnvironmentFault, match=r"whole numbers from 0 to 255"):
        environments.reset()


def test_numbers_flags_and_revisits() -> None:
    for good in (1, True, np.float32(1), np.array(1), np.int8(1)):
        assert reward_of(good) == 1.0
    for bad in (None, "1", b"1", [1.0], np.ones(1), 1j, float("nan"), 1e16, 10**400, object()):
        with pytest.raises(Refused, match="reward is"):
            reward_of(bad)
    for good in (True, np.True_, np.array(True), 1, 1.0):
        assert flag_of(good, "terminated") is True
    for bad in (None, "no", 2, np.zeros(2), float("nan"), [True]):
        with pytest.raises(Refused, match="terminated is"):
            flag_of(bad, "terminated")
    assert [revisit_of({"revisit": value}) for value in (True, np.False_, "no", 1, [True], None)] == [
        True,
        False,
        None,
        None,
        None,
        None,
    ]
    assert revisit_of(None) is revisit_of({}) is None


def test_a_broken_episode_is_neither_learned_from_nor_counted() -> None:
    """Seen from the worker: no sequence reaches over it, its policy is played again, and it is no pull."""
    config = tiny_config()
    given = EnvironmentConfig(arguments=("fault=nan observation", "every=0.02"))
    worker = RolloutWorker(HOSTILE, config.agent, ActorConfig(), given, 0, 3, 3, seed=1)
    worker.set_weights(0, flatten_weights(worker.lanes.networks))
    seen: list[LaneStep] = []
    step = worker.lanes.step
    worker.lanes.step = lambda choose: seen.append(step(choose)) or seen[-1]  # type: ignore[method-assign, func-returns-value]
    arms = [list(itertools.islice(itertools.cycle(range(4)), 100)) for _ in range(3)]
    rollout = worker.rollout(300, arms)
    assert len(rollout.faults) > 5
    for lane in range(3):
        played = [episode.policy_index for episode in rollout.episodes if episode.lane == lane]
        assert played == arms[lane][: len(played)], "each policy once, faults or not"
    assert {episode.length for episode in rollout.episodes} == {10}
    assert all(np.isfinite(sequence.observations).all() for sequence in rollout.sequences)
    assert sum(rollout.new_steps) == sum(episode.length for episode in rollout.episodes)
    assert np.isfinite(rollout.priorities).all()
    again = [int(s.policy_index[0]) for s in seen if s.starts[0]]
    assert len(again) > len([e for e in rollout.episodes if e.lane == 0]) + 1


def test_lanes_are_restored_between_a_fault_and_the_new_episode() -> None:
    given = EnvironmentConfig(arguments=("fault=nan observation", "every=0.05"))
    config = tiny_config()

    def make(seed: int) -> Lanes:
        lanes = Lanes(config.agent, LaneEnvironments(HOSTILE, 2, seed, given, True), np.full(2, 0.5), seed)
        lanes.set_weights(0, flatten_weights(lanes.networks))
        return lanes

    lanes, arms = make(1), iter(range(10**6))
    while not lanes._again.any():
        lanes.step(lambda lane: next(arms) % 4)
    state = lanes.state_dict()
    other = make(2)
    other.load_state_dict(state)
    for _ in range(40):
        one, two = (each.step(lambda lane: 3) for each in (lanes, other))
        np.testing.assert_array_equal(one.observations, two.observations)
        np.testing.assert_array_equal(one.policy_index, two.policy_index)
        np.testing.assert_array_equal(one.starts, two.starts)
