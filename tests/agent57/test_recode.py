"""RECODE's memory against a version written out in Python floats, one atom at a time."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from agent57.config import AgentConfig, IntrinsicConfig, NetworkConfig
from agent57.novelty.recode import CountMemory, Recode
from agent57.structures import EnvironmentSpec

DIM = 3


class SlowMemory:
    """The specification, for a few lanes that are all looked up before any of them is inserted."""

    def __init__(self, num_atoms: int, seed: int, **constants: float) -> None:
        self.capacity, self.draws = num_atoms, np.random.default_rng(seed)
        self.__dict__.update(constants)
        self.atoms: list[list[float]] = []
        self.counts: list[float] = []
        self.sum = self.weight = 0.0
        self.given_up = 0

    @staticmethod
    def distance(one: Any, other: Any) -> float:
        return sum((float(a) - float(b)) ** 2 for a, b in zip(one, other, strict=True))

    def bonus(self, embeddings: np.ndarray) -> list[float]:
        if not self.atoms:
            self.atoms, self.counts = [list(map(float, embeddings[0]))], [1.0]
            return [1 / self.pseudo_count] * len(embeddings)
        distances = [[self.distance(atom, e) for atom in self.atoms] for e in embeddings]
        nearest = [sorted(row)[: self.num_neighbours] for row in distances]
        scale = self.sum / self.weight if self.weight else sum(map(sum, nearest)) / sum(map(len, nearest))
        rewards = []
        for row in distances:
            visits = 0.0
            for squared, count in zip(row, self.counts, strict=True):
                if squared < scale:
                    visits += (1 + count) * self.kernel_epsilon / (self.kernel_epsilon + squared / scale)
            rewards.append(1 / (math.sqrt(visits) + self.pseudo_count))
        for _ in embeddings:
            self.counts = [self.count_decay * count for count in self.counts]
        mean = sum(sum(row) / len(row) for row in nearest) / len(nearest)
        keep = self.distance_decay ** len(embeddings)
        self.sum, self.weight = keep * self.sum + (1 - keep) * mean, keep * self.weight + (1 - keep)
        lucky = self.draws.random(len(embeddings)) < self.insertion
        becomes = [
            row[0] > self.tolerance * self.sum / self.weight and luck for row, luck in zip(nearest, lucky, strict=True)
        ]
        for e, row, inserts in zip(embeddings, distances, becomes, strict=True):
            if not inserts:
                place = row.index(min(row))
                count = self.counts[place]
                self.atoms[place] = [
                    (count * f + float(x)) / (count + 1) for f, x in zip(self.atoms[place], e, strict=True)
                ]
                self.counts[place] += 1
        self.insert([list(map(float, e)) for e, inserts in zip(embeddings, becomes, strict=True) if inserts])
        return rewards

    def insert(self, new: list[list[float]]) -> None:
        room = self.capacity - len(self.atoms)
        replaced: list[int] = []
        if len(new) > room:
            weights = np.array([1 / count**2 for count in self.counts])
            chosen = self.draws.choice(
                len(self.atoms), len(new) - max(room, 0), replace=False, p=weights / weights.sum()
            )
            replaced = chosen.tolist()
            self.given_up += len(replaced)
            lost = [self.counts[place] for place in replaced]
            for place, count in zip(replaced, lost, strict=True):
                others = [other for other in range(len(self.atoms)) if other not in replaced]
                heir = min(others, key=lambda other, place=place: self.distance(self.atoms[place], self.atoms[other]))
                self.counts[heir] += count
        for e in new:
            if room > 0:
                self.atoms.append(e)
                self.counts.append(1.0)
                room -= 1
            else:
                place = replaced.pop(0)
                self.atoms[place], self.counts[place] = e, 1.0


CONSTANTS: dict[str, Any] = {
    "num_neighbours": 3, "kernel_epsilon": 0.01, "pseudo_count": 1e-3, "count_decay": 0.99, "distance_decay": 0.95,
    "tolerance": 0.2, "insertion": 0.6,
}  # fmt: skip


def memory(num_atoms: int = 12, seed: int = 0, dim: int = DIM, **changes: Any) -> CountMemory:
    return CountMemory(num_atoms, dim, seed=seed, **(CONSTANTS | changes))


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("far", [0.0, 1e3])
def test_step_by_step_as_written_out(lanes: int, far: float) -> None:
    """Also far from zero, and long after the memory is full."""
    rng = np.random.default_rng(1)
    fast, slow = memory(seed=4), SlowMemory(12, 4, **CONSTANTS)
    places = rng.normal(size=(30, DIM)) * 3 + far
    for _ in range(250):
        embeddings = (places[rng.integers(30, size=lanes)] + 0.05 * rng.normal(size=(lanes, DIM))).astype(np.float32)
        np.testing.assert_allclose(fast.bonus(embeddings), slow.bonus(embeddings), rtol=3e-3)
        np.testing.assert_allclose(fast.counts, slow.counts, rtol=1e-6)
        np.testing.assert_allclose(fast.atoms, slow.atoms, rtol=1e-5, atol=2e-3)
        assert fast.mean_distance == pytest.approx(slow.sum / slow.weight if slow.weight else 0, rel=1e-3)
    assert len(fast.counts) == 12
    assert slow.given_up > 10


def test_kernel_by_hand() -> None:
    """Two atoms, d_m^2 = 4: at squared distance 1 the kernel is .01 / (.01 + .25); the other atom is too far."""
    counted = memory(num_atoms=5, dim=1, insertion=0.0)
    counted._place(np.arange(2), np.array([[0.0, 3.0]]))
    counted._counts[:2], counted._size = [2.0, 9.0], 2
    counted._distance_sum, counted._distance_weight = 2.0, 0.5
    reward = float(counted.bonus(np.array([[-1.0]], np.float32))[0])
    assert reward == pytest.approx(1 / (math.sqrt(3 * 0.01 / 0.26) + 1e-3), rel=1e-5)
    # c_l decays, then the visit moves the nearest atom: (1.98 * 0 - 1) / 2.98.
    assert counted.counts.tolist() == pytest.approx([2 * 0.99 + 1, 9 * 0.99])
    assert counted.atoms[0, 0] == pytest.approx(-1 / 2.98)


def test_counts_are_those_of_a_known_sequence_of_visits() -> None:
    """Places far apart, all inserted at once and nothing forgotten: each place's count is its number of visits."""
    rng = np.random.default_rng(0)
    counted = memory(num_atoms=20, count_decay=1.0, insertion=1.0, tolerance=0.0)
    places = np.zeros((8, DIM), np.float32)
    places[:, 0] = np.arange(8) * 10.0
    visits = rng.integers(8, size=400)
    for place in visits:
        counted.bonus(places[[place]])
    order = np.argsort(counted.atoms[:, 0])
    # The first step makes an atom, each later visit counts.
    np.testing.assert_allclose(counted.counts[order], np.bincount(visits, minlength=8), rtol=1e-6)
    np.testing.assert_allclose(counted.atoms[order, 0], places[:, 0], atol=1e-4)


def test_novelty_outlives_episodes_and_falls_as_the_square_root_of_visits() -> None:
    counted = memory(num_atoms=50, count_decay=1.0, insertion=1.0, pseudo_count=1e-6)
    here, there = np.zeros((1, DIM), np.float32), np.full((1, DIM), 7.0, np.float32)
    for step in range(200):
        counted.bonus(here if step % 2 else there)
    after_few = memory(num_atoms=50, count_decay=1.0, insertion=1.0, pseudo_count=1e-6)
    for step in range(50):
        after_few.bonus(here if step % 2 else there)
    often, seldom = float(counted.bonus(here)[0]), float(after_few.bonus(here)[0])
    assert seldom / often == pytest.approx(math.sqrt(101 / 26), rel=0.05)
    new = counted.bonus(np.full((1, DIM), 50.0, np.float32))
    assert new[0] > 50 * often


def test_a_drifting_embedding_is_followed() -> None:
    """All places move slowly: atoms go along, and what was visited often still earns little."""
    rng = np.random.default_rng(0)
    counted = memory(num_atoms=40)
    places = rng.normal(size=(10, DIM)) * 4
    for step in range(3000):
        place = places[rng.integers(10)] + 0.004 * step
        reward = counted.bonus(place[np.newaxis].astype(np.float32))
    moved = places + 0.004 * 3000
    for place in moved:
        # They have moved by a squared distance of 432; a state becomes an atom of its own from a fifth of d_m^2 on.
        assert np.square(counted.atoms - place).sum(1).min() < 0.5 * counted.mean_distance
    unseen = float(counted.bonus((moved[:1] + 30).astype(np.float32))[0])
    assert unseen > 10 * float(reward[0])


def test_the_atoms_given_up_are_those_of_few_visits() -> None:
    counted = memory(num_atoms=10, count_decay=1.0, insertion=1.0, tolerance=0.0)
    counted._place(np.arange(10), np.arange(10) * np.array([[100.0], [0.0], [0.0]]))
    counted._counts[:], counted._size = [50.0] * 5 + [1.0] * 5, 10
    kept = []
    for seed in range(200):
        trial = memory(num_atoms=10, seed=seed)
        trial._place(np.arange(10), counted.atoms.T)
        trial._counts[:], trial._size = counted.counts, 10
        chosen = int(trial._give_up(1)[0])
        kept.append(chosen)
        # Its count went to a neighbour.
        assert trial.counts.sum() == pytest.approx(counted.counts.sum() + counted.counts[chosen])
        assert trial.counts[[chosen - 1] if chosen else [1]].max() >= counted.counts[chosen] + 1 or chosen < 9
    assert np.mean(np.array(kept) >= 5) > 0.99


def test_no_more_atoms_than_allowed_and_all_lanes_may_insert_at_once() -> None:
    rng = np.random.default_rng(0)
    counted = memory(num_atoms=4, insertion=1.0, tolerance=0.0)
    for _ in range(50):
        rewards = counted.bonus(rng.normal(size=(9, DIM)).astype(np.float32) * 100)
        assert np.isfinite(rewards).all()
        assert len(counted.counts) <= 4
        assert (counted.counts >= 0).all()


def test_what_is_not_finite_earns_nothing_and_is_not_remembered() -> None:
    counted = memory()
    broken = np.array([[np.nan, 0, 0], [np.inf, 0, 0]], np.float32)
    assert counted.bonus(broken).tolist() == [0, 0]
    assert len(counted.counts) == 0
    counted.bonus(np.ones((1, DIM), np.float32))
    assert counted.bonus(broken).tolist() == [0, 0]
    assert np.isfinite(counted.atoms).all()
    assert counted.counts.tolist() == [1.0]


def test_one_place_alone_is_no_novelty_for_long() -> None:
    """All embeddings equal: every distance is 0, so there is no scale to divide by."""
    counted = memory()
    rewards = [float(counted.bonus(np.ones((2, DIM), np.float32))[0]) for _ in range(100)]
    assert rewards[0] == pytest.approx(1 / 1e-3)
    assert rewards[-1] < 0.2
    assert all(one > other for one, other in itertools.pairwise(rewards[:20]))


def test_it_goes_on_exactly_from_its_state() -> None:
    rng = np.random.default_rng(0)
    first, second = memory(seed=1), memory(seed=2)
    steps = [rng.normal(size=(4, DIM)).astype(np.float32) for _ in range(40)]
    for embeddings in steps[:20]:
        first.bonus(embeddings)
    state = first.state_dict()
    assert state["held"].shape == (DIM, len(first.counts))
    second.load_state_dict(state)
    for embeddings in steps[20:]:
        np.testing.assert_array_equal(first.bonus(embeddings), second.bonus(embeddings))
    np.testing.assert_array_equal(first.atoms, second.atoms)


def test_a_smaller_memory_takes_over_the_atoms_of_most_visits() -> None:
    rng = np.random.default_rng(0)
    first, smaller, larger = memory(), memory(num_atoms=5), memory(num_atoms=30)
    for _ in range(100):
        first.bonus(rng.normal(size=(4, DIM)).astype(np.float32))
    for other in (smaller, larger):
        other.load_state_dict(first.state_dict())
    np.testing.assert_array_equal(np.sort(smaller.counts), np.sort(first.counts)[-5:])
    np.testing.assert_array_equal(larger.atoms, first.atoms)
    again = rng.normal(size=(4, DIM)).astype(np.float32)
    np.testing.assert_array_equal(larger.bonus(again), first.bonus(again))
    assert np.isfinite(smaller.bonus(again)).all()


# --- The reward that lanes get ----------------------------------------------------------------------------------


def rewards_of(embeddings: list[np.ndarray], **intrinsic: Any) -> np.ndarray:
    """[steps, L] of lanes whose embedding network hands out ``embeddings``."""
    agent = AgentConfig(
        network=NetworkConfig(embedding_size=DIM), intrinsic=IntrinsicConfig(novelty="recode", **intrinsic)
    )
    shown = iter(embeddings)
    networks = SimpleNamespace(embedding=lambda _: torch.from_numpy(next(shown)))
    lanes = Recode(agent, EnvironmentSpec((4,), "float32", 1.0, 2)).lanes(networks, len(embeddings[0]))  # type: ignore[arg-type]
    return np.stack([lanes.earn(torch.zeros(1)).rewards for _ in embeddings])


def test_rewards_are_of_order_one_soon_and_a_young_memory_pays_nothing() -> None:
    rng = np.random.default_rng(0)
    places = rng.normal(size=(200, DIM)) * 5
    steps = [places[rng.integers(200, size=8)].astype(np.float32) for _ in range(600)]
    rewards = rewards_of(steps, atom_insertion=1.0)
    assert not rewards[0].any()
    late = rewards[300:]
    assert 0.02 < late.mean() < 20
    assert rewards.max() < 200


def test_a_constant_bonus_is_not_blown_up() -> None:
    rewards = rewards_of([np.zeros((4, DIM), np.float32)] * 3000, atoms=1)
    assert np.isfinite(rewards).all()
    assert rewards.max() <= 10.001
