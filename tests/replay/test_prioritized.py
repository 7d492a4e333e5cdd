"""Prioritized replay against a naive list: what is held, what is drawn, who may change a priority."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.config import ReplayConfig
from replay.prioritized import ITEM_OVERHEAD_BYTES, PRIORITY_FLOOR, PrioritizedReplay, SampledSequences
from tests.replay.insertions import numbers


def make_config(capacity_steps: int = 10**6, max_bytes: int = 10**9, priority_exponent: float = 0.9) -> ReplayConfig:
    return ReplayConfig(capacity_steps, max_bytes / 1e9, priority_exponent, min_sequences=1)


def filled(priorities: list[float], **config: float) -> PrioritizedReplay:
    """A replay whose sequence i is the blob str(i) and brings one step."""
    replay = PrioritizedReplay(make_config(**config), seed=0)
    blobs = [str(i).encode() for i in range(len(priorities))]
    replay.add(blobs, np.array(priorities), np.ones(len(blobs), np.int64))
    return replay


def blobs_of(sampled: SampledSequences) -> list[bytes]:
    whole, offsets = sampled.blob.tobytes(), sampled.offsets.tolist()
    return [whole[start:end] for start, end in itertools.pairwise(offsets)]


@dataclass
class Item:
    blob: bytes
    priority: float
    steps: int
    key: int
    added_at: int


class NaiveReplay:
    """The same, as a list of items that is walked for everything."""

    def __init__(self, config: ReplayConfig) -> None:
        self.config = config
        self.items: list[Item] = []
        self.added_steps = self.added = 0

    def num_bytes(self) -> int:
        return sum(len(item.blob) + ITEM_OVERHEAD_BYTES for item in self.items)

    def num_steps(self) -> int:
        return sum(item.steps for item in self.items)

    def add(self, blob: bytes, priority: float, steps: int) -> None:
        self.added_steps += steps
        self.items.append(Item(blob, priority, steps, self.added, self.added_steps))
        self.added += 1
        while self.num_steps() > self.config.capacity_steps or self.num_bytes() > self.config.max_gb * 1e9:
            self.items.pop(0)

    def probability(self, item: Item) -> float:
        weights = [max(other.priority, PRIORITY_FLOOR) ** self.config.priority_exponent for other in self.items]
        return max(item.priority, PRIORITY_FLOOR) ** self.config.priority_exponent / sum(weights)


PRIORITY = st.one_of(st.just(0.0), st.floats(1e-3, 1e3))
NEW_ITEM = st.tuples(st.binary(max_size=600), PRIORITY, st.integers(0, 40))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_history_agrees_with_the_naive_replay(data: st.DataObject) -> None:
    config = make_config(
        capacity_steps=data.draw(st.integers(40, 300)),
        max_bytes=data.draw(st.integers(1000, 6000)),
        priority_exponent=data.draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])),
    )
    replay, naive = PrioritizedReplay(config, seed=data.draw(st.integers(0, 99))), NaiveReplay(config)
    remembered: list[SampledSequences] = []
    for _ in range(data.draw(st.integers(1, 12))):
        action = data.draw(st.sampled_from(["add", "sample", "update"]))
        if action == "add":
            new = data.draw(st.lists(NEW_ITEM, max_size=12))
            replay.add([item[0] for item in new], np.array([item[1] for item in new]), np.array([i[2] for i in new]))
            for item in new:
                naive.add(*item)
        elif action == "sample" and naive.items:
            sampled = replay.sample(data.draw(st.integers(1, 9)))
            remembered.append(sampled)
            by_key = {item.key: item for item in naive.items}
            for i, blob in enumerate(blobs_of(sampled)):
                item = by_key[int(numbers(sampled)[i])]
                assert blob == item.blob
                assert sampled.ages[i] == naive.added_steps - item.added_at
                assert sampled.probabilities[i] == pytest.approx(naive.probability(item), rel=1e-9)
        elif action == "update" and remembered:
            sampled = data.draw(st.sampled_from(remembered))
            new_priorities = data.draw(st.lists(PRIORITY, min_size=len(sampled.slots), max_size=len(sampled.slots)))
            applied = replay.update_priorities(sampled.slots, sampled.keys, np.array(new_priorities))
            expected = 0
            for key, priority in zip(numbers(sampled), new_priorities, strict=True):
                for item in naive.items:
                    if item.key == key:
                        item.priority = priority
                        expected += 1
            assert applied == expected
        replay.check_valid()
        assert len(replay) == len(naive.items)
        assert (replay.num_steps, replay.num_bytes) == (naive.num_steps(), naive.num_bytes())
        assert (replay.total_added_steps, replay.total_added_sequences) == (naive.added_steps, naive.added)
        assert replay.priorities().tolist() == [item.priority for item in naive.items]


@pytest.mark.parametrize("exponent", [0.0, 0.9])
def test_frequencies_follow_the_priorities(exponent: float) -> None:
    priorities = np.array([0.1, 1.0, 2.0, 5.0, 20.0])
    replay = filled(priorities.tolist(), priority_exponent=exponent)
    expected = priorities**exponent / np.sum(priorities**exponent)
    counts = np.zeros(5)
    for _ in range(2000):
        sampled = replay.sample(7)
        np.testing.assert_allclose(sampled.probabilities, expected[numbers(sampled)])
        counts += np.bincount(numbers(sampled), minlength=5)
    np.testing.assert_allclose(counts / counts.sum(), expected, atol=0.01)


def test_draws_are_stratified() -> None:
    """Eight equal sequences and a batch of eight: each stratum holds exactly one."""
    replay = filled([1.0] * 8)
    for _ in range(20):
        assert sorted(numbers(replay.sample(8))) == list(range(8))


def test_fewer_sequences_than_the_batch_repeat_and_an_empty_replay_refuses() -> None:
    sampled = filled([1.0, 1.0]).sample(64)
    assert np.bincount(numbers(sampled)).tolist() == [32, 32]
    with pytest.raises(ValueError, match="empty"):
        filled([]).sample(1)


def test_slots_are_recycled_but_late_updates_do_not_hit_the_successor() -> None:
    replay = filled([1.0] * 4, capacity_steps=4)
    old = replay.sample(4)
    replay.add([b"new"] * 3, np.full(3, 2.0), np.ones(3, np.int64))
    new = replay.sample(64)
    assert set(new.slots) == set(old.slots)  # no slot was left unused
    assert replay.update_priorities(old.slots, old.keys, np.full(4, 99.0)) == 1
    assert replay.priorities().tolist() == [99.0, 2.0, 2.0, 2.0]
    replay.check_valid()


def test_updates_for_slots_this_replay_never_had_are_ignored() -> None:
    """What a learner sends to a shard that was restarted empty, with fewer slots."""
    replay = filled([1.0])
    slots, keys = np.array([10**6, -1, 5, 0]), np.array([7, 0, -1, -1])
    assert replay.update_priorities(slots, keys, np.full(4, 9.0)) == 0
    assert replay.priorities().tolist() == [1.0]
    full = filled([1.0] * 1024)
    last = full.sample(2048)
    assert full.update_priorities(last.slots - 1024, last.keys, np.full(2048, 9.0)) == 0
    assert full.priorities().max() == 1.0


def test_bad_priorities_are_skipped_and_the_good_ones_beside_them_applied() -> None:
    replay = filled([1.0] * 5)
    sampled = replay.sample(5)
    new = np.array([np.nan, -1.0, np.inf, 0.0, 3.0])
    assert replay.update_priorities(sampled.slots, sampled.keys, new) == 2
    assert sorted(replay.priorities()) == [0.0, 1.0, 1.0, 1.0, 3.0]
    replay.check_valid()


def test_a_sequence_of_priority_zero_can_still_be_drawn() -> None:
    replay = filled([0.0, 0.0])
    assert set(numbers(replay.sample(2))) == {0, 1}
    replay = filled([0.0, 1e-4])
    assert 0 in np.concatenate([numbers(replay.sample(50)) for _ in range(40)])


def test_steps_and_bytes_are_bounded_and_the_oldest_leave() -> None:
    replay = PrioritizedReplay(make_config(capacity_steps=100), seed=0)
    for i in range(30):
        replay.add([str(i).encode()], np.ones(1), np.array([7]))
        assert replay.num_steps <= 100
    assert set(blobs_of(replay.sample(200))) == {str(i).encode() for i in range(16, 30)}
    item = 1000 + ITEM_OVERHEAD_BYTES
    replay = PrioritizedReplay(make_config(max_bytes=5 * item), seed=0)
    replay.add([bytes(1000)] * 12, np.ones(12), np.zeros(12, np.int64))
    assert (len(replay), replay.num_bytes) == (5, 5 * item)
    replay.add([b""], np.ones(1), np.zeros(1, np.int64))
    assert len(replay) == 5
    assert replay.stats()["sequences"] == 5
    assert replay.stats()["bytes"] == replay.num_bytes
    assert replay.stats()["evicted"] == 8
    replay.check_valid()


def test_slots_grow_past_the_first_allocation() -> None:
    replay = PrioritizedReplay(make_config(), seed=0)
    blobs = [str(i).encode() for i in range(5000)]
    replay.add(blobs, np.arange(1.0, 5001.0), np.ones(5000, np.int64))
    replay.check_valid()
    sampled = replay.sample(500)
    assert blobs_of(sampled) == [blobs[key] for key in numbers(sampled)]


def test_a_bad_priority_costs_its_sequence_and_no_other() -> None:
    replay = filled([1.0], capacity_steps=100, max_bytes=5000)
    priorities = np.array([2.0, np.nan, np.inf, -1.0, 3.0])
    replay.add([b"a", b"b", b"c", b"d", b"e"], priorities, np.ones(5, np.int64))
    replay.check_valid()
    assert replay.priorities().tolist() == [1, 2, 3]
    assert replay.stats()["refused"] == 3


def test_what_cannot_be_added_is_refused_whole() -> None:
    replay = filled([1.0], capacity_steps=100, max_bytes=5000)
    one, step = np.ones(2), np.ones(2, np.int64)
    for message, blobs, priorities, steps in (
        ("max-gb", [b"", bytes(5000)], one, step),
        ("capacity-steps", [b"", b""], one, np.array([1, 101])),
        ("new_steps", [b"", b""], one, np.array([1, -1])),
        ("new_steps", [b""], one, step),
    ):
        with pytest.raises(ValueError, match=message):
            replay.add(blobs, priorities, steps)
        assert (len(replay), replay.total_added_sequences) == (1, 1)
    replay.check_valid()


def test_blobs_are_copied_not_viewed() -> None:
    buffer = bytearray(b"before")
    replay = PrioritizedReplay(make_config(), seed=0)
    replay.add([memoryview(buffer), np.frombuffer(buffer, np.uint8)], np.ones(2), np.ones(2, np.int64))  # type: ignore[list-item]
    buffer[:] = b"after!"
    assert set(blobs_of(replay.sample(2))) == {b"before"}


def test_threads_may_share_a_replay() -> None:
    replay = filled([1.0] * 50, capacity_steps=100)

    def use(seed: int) -> None:
        for _ in range(50):
            sampled = replay.sample(4)
            replay.add([bytes(10 + seed)] * 3, np.full(3, float(seed)), np.full(3, 2))
            replay.update_priorities(sampled.slots, sampled.keys, np.full(4, 0.5))

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(use, range(1, 5)))
    assert replay.total_added_sequences == 50 + 4 * 50 * 3
    replay.check_valid()


def test_same_seed_same_draws() -> None:
    one, two = filled([1.0, 2.0, 3.0]), filled([1.0, 2.0, 3.0])
    assert [numbers(one.sample(3)).tolist() for _ in range(9)] == [numbers(two.sample(3)).tolist() for _ in range(9)]


def test_check_valid_notices_a_leak() -> None:
    replay = filled([1.0] * 3)
    replay._free.pop()
    with pytest.raises(AssertionError):
        replay.check_valid()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_gb": 0.0}, "replay.max-gb must be above 0"),
        ({"capacity_steps": 0}, "replay.capacity-steps"),
        ({"priority_exponent": -0.1}, "replay.priority-exponent"),
        ({"min_sequences": 0}, "replay.min-sequences"),
        ({"replay_ratio": 0.0}, "replay.replay-ratio"),
        ({"ratio_tolerance": -1.0}, "replay.ratio-tolerance"),
    ],
)
def test_config_refuses_what_cannot_work(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReplayConfig(**setting)  # type: ignore[arg-type]
