"""A saved replay loaded into another number of shards than it was saved from.

Every new shard reads the files of all old ones, merged from the oldest sequence to the newest, and keeps each
``num_shards``-th: an equal part of every old shard and of every age.
"""

from __future__ import annotations

import heapq
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from agent57.config import require
from replay.plain_files import load_arrays, open_plain, read_json
from replay.prioritized import PrioritizedReplay

_BATCH = 256


def saved_shards(directory: Path) -> int:
    """How many shards a checkpoint holds; ValueError unless they are numbered 0, 1, ..."""
    found = sorted(int(path.stem.removeprefix("replay-")) for path in directory.glob("replay-*.json"))
    complete = bool(found) and found == list(range(len(found)))
    require(complete, f"{directory} holds the replay shards {found}: some are missing")
    return len(found)


def load_share(replay: PrioritizedReplay, directory: Path, index: int, num_shards: int, exact: bool = True) -> None:
    """Fill ``replay``, shard ``index`` of ``num_shards``, from a checkpoint of any number of shards.

    With the number that was saved it continues its own file, if ``exact`` draw for draw. Otherwise it takes its share;
    the random state begins anew, and ages count from the oldest sequence held. Raises ValueError, leaving the replay
    empty or as it was, if a file is missing or damaged.
    """
    saved = saved_shards(directory)
    if saved == num_shards:
        replay.load(directory, f"replay-{index}", exact)
        return
    try:
        merged = heapq.merge(*(_oldest_first(directory, shard) for shard in range(saved)), key=lambda item: item[0])
        mine = [item for number, item in enumerate(merged) if number % num_shards == index]
    except (OSError, LookupError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot load the replay of {directory}: {type(error).__name__}: {error}") from error
    for start in range(0, len(mine), _BATCH):
        _, blobs, priorities, steps = zip(*mine[start : start + _BATCH], strict=True)
        # Where the limits are smaller now, the oldest leave again.
        replay.add(list(blobs), np.array(priorities), np.array(steps))


def _oldest_first(directory: Path, shard: int) -> Iterator[tuple[int, bytes, float, int]]:
    """(minus its age in steps, blob, priority, new steps) of every sequence of one saved shard."""
    state = read_json(directory / f"replay-{shard}.json")
    arrays = load_arrays(directory / f"replay-{shard}.npz")
    saved = {key: arrays[key] for key in ("sizes", "priorities", "new_steps", "born")}
    checksum = 0
    with open_plain(directory / f"replay-{shard}.blobs") as file:
        sizes = arrays["sizes"]
        fits = bool(np.all(sizes >= 0)) and os.fstat(file.fileno()).st_size == int(sizes.sum())
        require(fits, f"the sequences of shard {shard} do not have the size recorded for them")
        for size, priority, steps, born in zip(*(array.tolist() for array in saved.values()), strict=True):
            blob = file.read(size)
            checksum = zlib.crc32(blob, checksum)
            yield born - state["total_added_steps"], blob, priority, steps
    require(checksum == state["blobs_crc32"], f"the sequences of shard {shard} do not have their recorded checksum")
