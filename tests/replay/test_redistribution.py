"""A saved replay in another number of shards: nothing lost, nothing twice, even parts, oldest first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from replay.config import ReplayConfig
from replay.prioritized import PrioritizedReplay
from replay.redistribution import load_share, saved_shards
from tests.replay.insertions import numbers

CONFIG = ReplayConfig(capacity_steps=10**6, max_gb=1.0, min_sequences=1)


def save_shards(directory: Path, sizes: list[int]) -> dict[str, float]:
    """Shards of these sizes, filled in turn; returns the priority of each sequence by its blob."""
    shards = [PrioritizedReplay(CONFIG, seed=number) for number in range(len(sizes))]
    priorities, number = {}, 0
    for index in range(max(sizes)):
        for shard, size in zip(shards, sizes, strict=True):
            if index < size:
                priorities[f"{number:05d}"] = 1.0 + number
                shard.add([f"{number:05d}".encode()], np.array([1.0 + number]), np.array([3]))
                number += 1
    for number, shard in enumerate(shards):
        shard.save(directory, f"replay-{number}")
    return priorities


def loaded(directory: Path, count: int, config: ReplayConfig = CONFIG) -> list[PrioritizedReplay]:
    replays = [PrioritizedReplay(config, seed=7) for _ in range(count)]
    for index, replay in enumerate(replays):
        load_share(replay, directory, index, count)
        replay.check_valid()
    return replays


def contents(replay: PrioritizedReplay) -> list[str]:
    """Blobs, oldest first."""
    sampled = replay.sample(20_000)
    by_key = {}
    for column, key in enumerate(sampled.keys.tolist()):
        by_key[key] = sampled.blob[sampled.offsets[column] : sampled.offsets[column + 1]].tobytes().decode()
    return [by_key[key] for key in sorted(by_key)]


@pytest.mark.parametrize(("sizes", "count"), [([40, 40], 1), ([60], 3), ([50, 50], 3), ([40, 12, 40], 2)])
def test_every_sequence_goes_to_one_shard_with_its_priority(tmp_path: Path, sizes: list[int], count: int) -> None:
    priorities = save_shards(tmp_path, sizes)
    replays = loaded(tmp_path, count)
    found = [contents(replay) for replay in replays]
    assert sorted(name for names in found for name in names) == sorted(priorities)
    assert max(map(len, found)) - min(map(len, found)) <= 1
    for replay, names in zip(replays, found, strict=True):
        assert replay.priorities().tolist() == [priorities[name] for name in names]
        assert replay.num_steps == 3 * len(names)
    if len(set(sizes)) == 1:
        # Equal shards were filled in turn, so within each new one the older sequence comes first. Equally old
        # sequences of different shards may change places.
        for names in found:
            order = np.array([int(name) // len(sizes) for name in names])
            assert np.all(np.diff(order) >= 0)


def test_as_many_shards_as_saved_continue_draw_for_draw(tmp_path: Path) -> None:
    original = PrioritizedReplay(CONFIG, seed=1)
    original.add([bytes([i]) for i in range(50)], np.arange(1.0, 51.0), np.ones(50, np.int64))
    original.sample(3)
    original.save(tmp_path, "replay-0")
    assert saved_shards(tmp_path) == 1
    (again,) = loaded(tmp_path, 1)
    assert numbers(original.sample(9)).tolist() == numbers(again.sample(9)).tolist()


def test_smaller_limits_keep_the_newest(tmp_path: Path) -> None:
    save_shards(tmp_path, [50, 50])
    (replay,) = loaded(tmp_path, 1, ReplayConfig(capacity_steps=30, max_gb=1.0, min_sequences=1))
    assert contents(replay) == [f"{number:05d}" for number in range(90, 100)]


def test_a_missing_or_damaged_file_is_refused(tmp_path: Path) -> None:
    save_shards(tmp_path, [20, 20])
    blobs = tmp_path / "replay-1.blobs"
    whole = blobs.read_bytes()
    blobs.write_bytes(whole[:-3] + b"xyz")
    replay = PrioritizedReplay(CONFIG, seed=0)
    with pytest.raises(ValueError, match="shard 1"):
        load_share(replay, tmp_path, 0, 1)
    assert len(replay) == 0
    (tmp_path / "replay-0.json").unlink()
    with pytest.raises(ValueError, match="some are missing"):
        load_share(replay, tmp_path, 0, 1)
