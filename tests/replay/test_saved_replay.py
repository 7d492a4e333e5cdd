"""A saved replay continues bit for bit, fits itself into smaller limits, and a damaged one is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from replay.config import ReplayConfig
from replay.prioritized import ITEM_OVERHEAD_BYTES, PrioritizedReplay
from replay.redistribution import load_share
from tests.replay.insertions import numbers

CONFIG = ReplayConfig(capacity_steps=500, max_gb=1.0, min_sequences=1)


def add_random(replay: PrioritizedReplay, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    blobs = [rng.bytes(int(length)) for length in rng.integers(0, 200, count)]
    replay.add(blobs, rng.random(count), rng.integers(1, 9, count))


def busy_replay() -> PrioritizedReplay:
    """One that has evicted, recycled slots, and drawn."""
    replay = PrioritizedReplay(CONFIG, seed=3)
    add_random(replay, 300, seed=1)
    for _ in range(5):
        sampled = replay.sample(16)
        replay.update_priorities(sampled.slots, sampled.keys, np.linspace(0, 4, 16))
    return replay


def history(replay: PrioritizedReplay) -> list[bytes]:
    """Everything visible of ten rounds of adding, drawing and updating."""
    seen: list[bytes] = []
    for round_ in range(10):
        sampled = replay.sample(16)
        visible = vars(sampled) | {"keys": numbers(sampled)}
        seen += [np.ascontiguousarray(array).tobytes() for array in visible.values()]
        replay.update_priorities(sampled.slots, sampled.keys, sampled.probabilities * 50)
        add_random(replay, 20, seed=100 + round_)
        seen += [replay.priorities().tobytes(), json.dumps(replay.stats()).encode()]
    replay.check_valid()
    return seen


def test_restored_replay_continues_bit_for_bit(tmp_path: Path) -> None:
    replay = busy_replay()
    replay.save(tmp_path, "shard-0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-0.blobs", "shard-0.json", "shard-0.npz"]
    restored = PrioritizedReplay(CONFIG, seed=77)
    add_random(restored, 40, seed=5)  # replaced by what is loaded
    restored.load(tmp_path, "shard-0")
    restored.check_valid()
    assert (restored.total_added_steps, restored.total_added_sequences) == (
        replay.total_added_steps,
        replay.total_added_sequences,
    )
    assert history(restored) == history(replay)


def test_empty_replay_round_trips(tmp_path: Path) -> None:
    PrioritizedReplay(CONFIG, seed=0).save(tmp_path, "r")
    restored = PrioritizedReplay(CONFIG, seed=1)
    restored.load(tmp_path, "r")
    restored.check_valid()
    assert len(restored) == 0


@pytest.mark.parametrize("limits", [{"capacity_steps": 60}, {"max_gb": 3000 / 1e9}, {"max_gb": 1 / 1e9}])
def test_smaller_limits_keep_the_newest(tmp_path: Path, limits: dict[str, float]) -> None:
    replay = busy_replay()
    replay.save(tmp_path, "r")
    smaller = PrioritizedReplay(replace(CONFIG, **limits), seed=0)  # type: ignore[arg-type]
    smaller.load(tmp_path, "r")
    smaller.check_valid()
    assert len(smaller) < len(replay)
    assert smaller.priorities().tolist() == replay.priorities()[len(replay) - len(smaller) :].tolist()
    assert smaller.stats()["evicted"] == replay.stats()["evicted"] + len(replay) - len(smaller)
    if limits["max_gb" if "max_gb" in limits else "capacity_steps"] * 1e9 > ITEM_OVERHEAD_BYTES:
        assert len(smaller) > 0
        history(smaller) if "capacity_steps" in limits else smaller.sample(8)
        smaller.check_valid()


def test_changed_exponent_takes_effect(tmp_path: Path) -> None:
    busy_replay().save(tmp_path, "r")
    uniform = PrioritizedReplay(replace(CONFIG, priority_exponent=0.0), seed=0)
    uniform.load(tmp_path, "r")
    uniform.check_valid()
    np.testing.assert_allclose(uniform.sample(5).probabilities, 1 / len(uniform))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty_object(path: Path) -> None:
    path.write_text("{}")


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("json", Path.unlink),
        ("npz", Path.unlink),
        ("blobs", Path.unlink),
        ("json", truncate),
        ("npz", truncate),
        ("blobs", truncate),
        ("npz", flip_middle),
        ("blobs", flip_middle),
        ("json", empty_object),
    ],
)
def test_damaged_files_are_refused_and_change_nothing(tmp_path: Path, suffix: str, damage: object) -> None:
    busy_replay().save(tmp_path, "r")
    damage(tmp_path / f"r.{suffix}")  # type: ignore[operator]
    replay, untouched = busy_replay(), busy_replay()
    with pytest.raises(ValueError, match="replay"):
        replay.load(tmp_path, "r")
    assert history(replay) == history(untouched)


def test_files_of_two_saves_do_not_mix(tmp_path: Path) -> None:
    replay = busy_replay()
    replay.save(tmp_path, "old")
    add_random(replay, 30, seed=8)
    replay.save(tmp_path, "new")
    (tmp_path / "old.npz").replace(tmp_path / "new.npz")
    with pytest.raises(ValueError, match="replay"):
        PrioritizedReplay(CONFIG, seed=0).load(tmp_path, "new")


def test_nothing_saved_is_pickled(tmp_path: Path) -> None:
    busy_replay().save(tmp_path, "r")
    with np.load(tmp_path / "r.npz", allow_pickle=False) as arrays:
        assert all(arrays[key].dtype != object for key in arrays.files)
    json.loads((tmp_path / "r.json").read_text())


@pytest.mark.parametrize(
    ("array", "value"), [("order", 0), ("order", 10**6), ("born", 0), ("born", 10**6), ("priorities", np.nan)]
)
def test_well_formed_files_with_impossible_contents_are_refused(tmp_path: Path, array: str, value: float) -> None:
    busy_replay().save(tmp_path, "r")
    with np.load(tmp_path / "r.npz", allow_pickle=False) as file:
        arrays = dict(file)
    arrays[array][-2:] = value
    np.savez(tmp_path / "r.npz", **arrays)
    with pytest.raises(ValueError, match="cannot load the replay"):
        PrioritizedReplay(CONFIG, seed=0).load(tmp_path, "r")


def test_pickled_arrays_are_not_opened(tmp_path: Path) -> None:
    busy_replay().save(tmp_path, "r")
    with np.load(tmp_path / "r.npz", allow_pickle=False) as file:
        arrays = dict(file)
    arrays[next(iter(arrays))] = np.array([{}], dtype=object)
    np.savez(tmp_path / "r.npz", **arrays)
    with pytest.raises(ValueError, match="pickled objects"):
        PrioritizedReplay(CONFIG, seed=0).load(tmp_path, "r")


@pytest.mark.parametrize("before", ["restored", "redistributed", "twice", "never saved"])
def test_a_late_update_of_what_died_with_its_replay_hits_nothing(tmp_path: Path, before: str) -> None:
    """The learner holds sequences drawn after the last save; those inserted since the restore took their slots."""
    first = PrioritizedReplay(CONFIG, seed=0)
    first.add([bytes([i]) for i in range(10)], np.ones(10), np.full(10, 5))
    first.save(tmp_path, "replay-0")

    def successor() -> PrioritizedReplay:
        replay = PrioritizedReplay(CONFIG, seed=0, life=1)
        if before == "redistributed":
            load_share(replay, tmp_path, 0, 2)
        elif before != "never saved":
            replay.load(tmp_path, "replay-0")
        return replay

    dead = successor() if before == "twice" else first
    dead.add([b"old"] * 12, np.full(12, 1000.0), np.ones(12, np.int64))
    late = dead.sample(40)
    replay = successor()
    replay.add([b"new"] * 12, np.full(12, 0.01), np.ones(12, np.int64))
    expected = replay.priorities().tolist()
    assert replay.update_priorities(late.slots, late.keys, np.full(40, 777.0)) == 0
    assert replay.priorities().tolist() == expected
    replay.check_valid()


def test_a_restored_replay_of_another_life_draws_for_itself(tmp_path: Path) -> None:
    """Under Ray, where nothing else continues exactly, the draws since the save must not come again."""
    replay = busy_replay()
    replay.save(tmp_path, "r")
    draws = []
    for life in (0, 0, 1):
        restored = PrioritizedReplay(CONFIG, seed=3, life=life)
        restored.load(tmp_path, "r", exact=False)
        draws.append(numbers(restored.sample(64)).tolist())
    assert draws[0] == draws[1]
    assert draws[2] != draws[0]
    assert numbers(replay.sample(64)).tolist() not in draws
