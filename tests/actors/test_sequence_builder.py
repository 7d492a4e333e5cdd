"""Cutting episodes into sequences, against a list of (first, last) steps written down from R2D2's rule; and the
step convention, against a log of what the environments were told and what they answered."""

from __future__ import annotations

import itertools
from dataclasses import fields
from typing import Any

import gymnasium
import numpy as np
import pytest

from actors.environments.contract import EnvironmentConfig, EnvironmentStep, LaneEnvironments
from actors.lanes import Lanes, LaneStep
from actors.sequence_builder import BuiltSequence, SequenceBuilder
from agent57.config import AgentConfig, IntrinsicConfig, NetworkConfig, PolicyFamilyConfig, SequenceConfig
from agent57.structures import NO_ACTION, EnvironmentSpec, SequenceSpec, padded_batch
from tests.loss_oracle import fill_whole

SPEC = EnvironmentSpec((2,), "float32", 1.0, 3)
LSTM_SIZE = 4
STEP_ARRAYS = (
    "observations",
    "previous_actions",
    "actions",
    "behaviour_probs",
    "extrinsic_rewards",
    "intrinsic_rewards",
)
CUTS = [(4, 2), (4, 3), (4, 4), (4, 1), (5, 2), (1, 1)]
"""(trace length, period)."""


# --- The builder alone -------------------------------------------------------------------------------------


def random_step(rng: np.random.Generator, starts: np.ndarray, ends: np.ndarray) -> LaneStep:
    """A step whose every number is drawn anew, so that no two steps can be taken for each other."""
    lanes = len(starts)
    return LaneStep(
        observations=rng.normal(size=(lanes, 2)).astype(np.float32),
        previous_actions=rng.integers(1000, size=lanes),
        extrinsic_rewards=rng.normal(size=lanes).astype(np.float32),
        intrinsic_rewards=rng.normal(size=lanes).astype(np.float32),
        policy_index=rng.integers(1000, size=lanes),
        recurrent_state=rng.normal(size=(2, 2, lanes, LSTM_SIZE)).astype(np.float32),
        q=rng.normal(size=(lanes, 2, 3)).astype(np.float32),
        values=rng.normal(size=(lanes, 2, 3)).astype(np.float32),
        actions=rng.integers(1000, size=lanes),
        behaviour_probs=rng.random(lanes).astype(np.float32),
        starts=starts,
        ends=ends,
        terminated=ends & (rng.random(lanes) < 0.5),
        parts={},
    )


def schedule(rng: np.random.Generator, lengths: list[list[int]]) -> list[LaneStep]:
    """Steps of lanes whose episodes have ``lengths[lane]`` transitions each; the shortest lane limits the rest."""
    starts, ends = [], []
    for episodes in lengths:
        starts.append([t == 0 for n in episodes for t in range(n + 1)])
        ends.append([t == n for n in episodes for t in range(n + 1)])
    steps = min(len(lane) for lane in starts)
    return [
        random_step(rng, np.array([lane[t] for lane in starts]), np.array([lane[t] for lane in ends]))
        for t in range(steps)
    ]


def cuts(transitions: int, ended: bool, trace_length: int, period: int) -> list[tuple[int, int]]:
    """(first step, last step) of the sequences of one episode that has had so many transitions so far."""
    spans = [(first, first + trace_length) for first in range(0, transitions - trace_length + 1, period)]
    reached = spans[-1][1] if spans else 0
    if ended and reached < transitions:
        spans.append((len(spans) * period, transitions))
    return spans


def expected_sequences(steps: list[LaneStep], trace_length: int, period: int) -> list[tuple[int, int, int, int]]:
    """(first step, last step, lane, transitions not in an earlier one) of all sequences, in order of completion."""
    result = []
    for lane in range(len(steps[0].starts)):
        begins = [t for t, step in enumerate(steps) if step.starts[lane]]
        for begin, following in zip(begins, [*begins[1:], len(steps)], strict=True):
            last = following - 1
            reached = 0
            for first_step, last_step in cuts(last - begin, bool(steps[last].ends[lane]), trace_length, period):
                result.append((begin + first_step, begin + last_step, lane, last_step - reached))
                reached = last_step
    return sorted(result, key=lambda item: (item[1], item[2]))


def build(builder: SequenceBuilder, steps: list[LaneStep]) -> list[BuiltSequence]:
    return [item for step in steps for item in builder.append(step)]


def make_builder(trace_length: int, period: int, num_lanes: int) -> SequenceBuilder:
    return SequenceBuilder(SequenceSpec(SPEC, trace_length, LSTM_SIZE), period, num_lanes, (2, 3))


def assert_is_span(item: BuiltSequence, steps: list[LaneStep], first: int, last: int, lane: int) -> None:
    """Every field of the sequence is what ``steps`` held."""
    span, sequence = steps[first : last + 1], item.sequence
    for name in STEP_ARRAYS:
        np.testing.assert_array_equal(getattr(sequence, name), [getattr(step, name)[lane] for step in span], name)
    np.testing.assert_array_equal(item.values, [step.values[lane] for step in span])
    np.testing.assert_array_equal(sequence.recurrent_state, span[0].recurrent_state[:, :, lane])
    begin = max(t for t in range(first + 1) if steps[t].starts[lane])
    assert sequence.policy_index == steps[begin].policy_index[lane]
    assert sequence.terminated == bool(span[-1].terminated[lane])


@pytest.mark.parametrize(("trace_length", "period"), CUTS)
@pytest.mark.parametrize("seed", range(4))
def test_random_episodes_agree_with_the_oracle(trace_length: int, period: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = [rng.integers(1, 14, size=12).tolist() for _ in range(3)]
    steps = schedule(rng, lengths)
    expected = expected_sequences(steps, trace_length, period)
    built = build(make_builder(trace_length, period, 3), steps)
    assert len(built) == len(expected) > 12
    for item, (first, last, lane, new_steps) in zip(built, expected, strict=True):
        assert_is_span(item, steps, first, last, lane)
        assert item.new_steps == new_steps


@pytest.mark.parametrize(
    ("trace_length", "period", "length", "spans"),
    [
        (4, 2, 7, [(0, 4, 4), (2, 6, 2), (4, 7, 1)]),
        (4, 2, 6, [(0, 4, 4), (2, 6, 2)]),
        (4, 2, 4, [(0, 4, 4)]),
        (4, 2, 3, [(0, 3, 3)]),
        (4, 2, 1, [(0, 1, 1)]),
        (4, 3, 8, [(0, 4, 4), (3, 7, 3), (6, 8, 1)]),
        (4, 4, 8, [(0, 4, 4), (4, 8, 4)]),
        (4, 4, 9, [(0, 4, 4), (4, 8, 4), (8, 9, 1)]),
    ],
)
def test_one_episode_is_cut_as_written_by_hand(
    trace_length: int, period: int, length: int, spans: list[tuple[int, int, int]]
) -> None:
    """(first step, last step, new transitions) of each sequence; a second episode follows untouched."""
    steps = schedule(np.random.default_rng(0), [[length, length]])
    built = build(make_builder(trace_length, period, 1), steps)
    both = [*spans, *((first + length + 1, last + length + 1, new) for first, last, new in spans)]
    assert [item.new_steps for item in built] == [new for _, _, new in both]
    for item, (first, last, _) in zip(built, both, strict=True):
        assert_is_span(item, steps, first, last, 0)


@pytest.mark.parametrize(("trace_length", "period"), CUTS)
def test_no_transition_is_lost_or_counted_twice(trace_length: int, period: int) -> None:
    rng = np.random.default_rng(5)
    steps = schedule(rng, [list(range(1, 15))])
    built = build(make_builder(trace_length, period, 1), steps)
    stored = {(float(a[0]), float(b[0])) for item in built for a, b in itertools.pairwise(item.sequence.observations)}
    happened = {
        (float(a.observations[0, 0]), float(b.observations[0, 0]))
        for a, b in itertools.pairwise(steps)
        if not b.starts[0]
    }
    assert stored == happened
    assert sum(item.new_steps for item in built) == len(happened) == sum(range(1, 15))


def test_a_short_sequence_fills_a_batch_with_the_rest_masked() -> None:
    steps = schedule(np.random.default_rng(0), [[2, 6]])
    steps[2].terminated[:] = True
    built = build(make_builder(4, 2, 1), steps)
    batch = padded_batch(SequenceSpec(SPEC, 4, LSTM_SIZE), 2)
    for column, item in enumerate(built[:2]):
        fill_whole(batch, column, item.sequence)
    np.testing.assert_array_equal(batch.mask.T, [[True, True, False, False], [True] * 4])
    np.testing.assert_array_equal(batch.terminated.T, [[False, False, True, False, False], [False] * 5])
    assert (batch.previous_actions[3:, 0] == NO_ACTION).all()
    assert (batch.behaviour_probs[3:, 0] == 1).all()
    assert not batch.observations[3:, 0].any()
    assert not batch.extrinsic_rewards[3:, 0].any()


def test_a_restored_builder_goes_on_as_the_old_one_would() -> None:
    rng = np.random.default_rng(1)
    steps = schedule(rng, [[9, 3, 9], [2, 11, 9]])
    builder, restored = make_builder(4, 3, 2), make_builder(4, 3, 2)
    build(builder, steps[:8])
    restored.load_state_dict(builder.state_dict())
    ours, theirs = build(builder, steps[8:]), build(restored, steps[8:])
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one.new_steps == other.new_steps
        np.testing.assert_array_equal(one.values, other.values)
        for field in fields(one.sequence):
            np.testing.assert_array_equal(
                getattr(one.sequence, field.name), getattr(other.sequence, field.name), field.name
            )


# --- The step convention, from the environment to the sequence ---------------------------------------------

ENDINGS = ((3, False), (9, True), (1, False), (6, True), (8, False))
gymnasium.register("CounterOfManyLengths-v0", "tests.fakes:Counter", kwargs={"endings": ENDINGS})

Transition = tuple[np.ndarray, int, np.ndarray, float, bool]
"""(observation, action played on it, what it led to, reward, terminated)."""


class LoggedEnvironments(LaneEnvironments):
    """Keeps all transitions (resets are none) by (tag of the episode, step), as `tests.fakes.Counter` observes them."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.transitions: dict[tuple[float, float], Transition] = {}

    def reset(self) -> np.ndarray:
        self.last = super().reset()
        self.over = np.zeros(self.num_lanes, np.bool_)
        return self.last

    def step(self, actions: np.ndarray) -> EnvironmentStep:
        before, result = self.last, super().step(actions)
        for lane in np.flatnonzero(~self.over):
            arrived = result.observations[lane].copy()
            key = (float(before[lane, 1]), float(before[lane, 0]))
            reward, terminated = float(result.rewards[lane]), bool(result.terminated[lane])
            self.transitions[key] = (before[lane].copy(), int(actions[lane]), arrived, reward, terminated)
        self.over = result.terminated | result.truncated
        self.last = result.observations.copy()
        return result


@pytest.mark.parametrize(("trace_length", "period"), [(4, 2), (4, 3), (4, 4)])
def test_stored_sequences_hold_what_the_environments_saw(trace_length: int, period: int) -> None:
    num_lanes = 3
    agent = AgentConfig(
        family=PolicyFamilyConfig(num_policies=3),
        network=NetworkConfig("mlp", torso_size=16, lstm_size=8, head_size=8, embedding_size=4, rnd_size=8),
        intrinsic=IntrinsicConfig(num_neighbours=2),
        sequence=SequenceConfig(trace_length, period),
    )
    environments = LoggedEnvironments("CounterOfManyLengths-v0", num_lanes, 3, EnvironmentConfig())
    lanes = Lanes(agent, environments, np.full(num_lanes, 0.5), seed=0)
    spec = SequenceSpec(environments.spec, agent.sequence.trace_length, agent.network.lstm_size)
    builder = SequenceBuilder(spec, agent.sequence.replay_period, num_lanes, (2, environments.spec.num_actions))
    built = [item for _ in range(150) for item in builder.append(lanes.step(lambda lane: lane))]

    stored: set[tuple[float, float]] = set()
    ends = {True: 0, False: 0}
    for sequence in (item.sequence for item in built):
        tags, counts = sequence.observations[:, 1], sequence.observations[:, 0]
        assert len(set(tags)) == 1, "a sequence crosses the end of an episode"
        for t in range(sequence.num_transitions):
            before, action, arrived, reward, _ = environments.transitions[tags[t], counts[t]]
            np.testing.assert_array_equal(sequence.observations[t], before)
            np.testing.assert_array_equal(sequence.observations[t + 1], arrived)
            assert sequence.actions[t] == action == sequence.previous_actions[t + 1]
            assert sequence.extrinsic_rewards[t + 1] == reward == counts[t] + 1
            stored.add((tags[t], counts[t]))
        if counts[0] == 0:
            assert sequence.previous_actions[0] == NO_ACTION
            assert sequence.extrinsic_rewards[0] == sequence.intrinsic_rewards[0] == 0
            assert not sequence.recurrent_state.any()
        else:
            _, action, _, reward, _ = environments.transitions[tags[0], counts[0] - 1]
            assert (sequence.previous_actions[0], sequence.extrinsic_rewards[0]) == (action, reward)
            assert sequence.recurrent_state.any()
        _, _, length, truncates = sequence.observations[-1]
        is_final = counts[-1] == length
        assert sequence.terminated == (is_final and not truncates)
        if is_final:
            ends[sequence.terminated] += 1
        else:
            assert sequence.num_transitions == trace_length
    assert min(ends.values()) > 5

    # Every episode before the current ones is stored whole, and every transition is new exactly once.
    past = {key for key in environments.transitions if key[0] not in environments.last[:, 1]}
    assert past <= stored
    assert len({tag for tag, _ in past}) > 10
    assert sum(item.new_steps for item in built) == len(stored)
