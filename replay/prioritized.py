"""Prioritized replay of compressed sequences, bounded in steps and in bytes.

Schaul et al. 2016 (proportional prioritization), R2D2 section 2.3 (sequences), Agent57 appendix (exponent 0.9,
capacity). It never looks inside a blob. Lives in a replay shard (`cluster/on_ray/remotes.py`) or in the serial mode's
process; priorities arrive ready-made, from actors with new sequences and from the learner with sampled ones.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
import zlib
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agent57.config import require
from replay.config import ReplayConfig
from replay.plain_files import load_arrays, open_plain, read_json
from replay.sum_tree import SumTree
from replay.whole_files import ChecksummedFile, Written

ITEM_OVERHEAD_BYTES = 200
"""Estimate of what one stored sequence costs beside its blob: Python objects, tree nodes, array entries."""
PRIORITY_FLOOR = 1e-6
"""Smallest priority: a sequence that was learned perfectly can still be drawn again."""
BLOBS_AT_ONCE = 64
"""Sequences that are handed to the disk together."""
NUMBER_BITS = 40
"""Low bits of a key, which count insertions; those above tell one life of a replay from the others."""
LIFE_BITS = 22


@dataclass
class SampledSequences:
    """B sequences drawn at once: ``slots``, ``keys`` int64 [B] name them to `update_priorities`.

    ``probabilities`` float64 [B]; ``blob`` uint8, all blobs end to end, item b at ``offsets[b]:offsets[b + 1]``
    (int64 [B+1]); ``ages`` int64 [B], environment steps inserted since each was. ``shards`` int64 [B] says which shard
    of the replay each came from (`replay/global_draw.py`); all 0 for one that stands alone.
    """

    slots: np.ndarray
    keys: np.ndarray
    probabilities: np.ndarray
    blob: np.ndarray
    offsets: np.ndarray
    ages: np.ndarray
    shards: np.ndarray


class PrioritizedReplay:
    """Blobs in slots, drawn in proportion to priority ** exponent, evicted first in, first out.

    A slot is recycled; its *key* is not: the number of the insertion, under a random number that each life of a replay
    has for itself. So a late priority update cannot hit another sequence, be the one it means evicted or its replay
    dead and restored. One lock guards every public method: any thread may call. ``life``: see `RolloutWorker`.
    """

    def __init__(self, config: ReplayConfig, seed: int, life: int = 0) -> None:
        self.config = config
        self._rng = np.random.default_rng([seed, 11, life])
        self._lock = threading.RLock()
        self._clear(num_slots=1024)

    def _clear(self, num_slots: int) -> None:
        # Not from the seed: a replay that died before it was saved has the seed of its successor.
        self._life_bits = secrets.randbits(LIFE_BITS) << NUMBER_BITS
        self._tree = SumTree(num_slots)
        self._blobs: list[bytes | None] = [None] * num_slots
        self._keys = np.full(num_slots, -1, np.int64)
        self._new_steps = np.zeros(num_slots, np.int64)
        self._born = np.zeros(num_slots, np.int64)  # total_added_steps when inserted
        self._priorities = np.zeros(num_slots)
        self._free = list(range(num_slots - 1, -1, -1))
        self._order: deque[int] = deque()  # slots, oldest first
        self.num_steps = 0
        self.num_bytes = 0
        self.total_added_steps = 0
        self.total_added_sequences = 0
        self.total_evicted_sequences = 0
        self.total_refused_sequences = 0

    def __len__(self) -> int:
        return len(self._order)

    def add(self, blobs: list[bytes], priorities: np.ndarray, new_steps: np.ndarray) -> None:
        """Insert sequences; ``new_steps`` int64 [n] are the environment steps that no earlier one held.

        Blobs are copied unless they are bytes already. Sequences whose priority is not finite or is negative are
        refused and counted, so that a bad one costs no other. Raises ValueError, inserting nothing, for a sequence
        larger than the whole replay.
        """
        priorities, new_steps = np.asarray(priorities, np.float64), np.asarray(new_steps, np.int64)
        if not len(blobs) == len(priorities) == len(new_steps):
            raise ValueError("blobs, priorities and new_steps must have one entry per sequence")
        if np.any((new_steps < 0) | (new_steps > self.config.capacity_steps)):
            raise ValueError(f"new_steps must lie between 0 and replay.capacity-steps {self.config.capacity_steps}")
        limit = self.config.max_gb * 1e9
        largest = max((len(blob) for blob in blobs), default=0)
        if largest + ITEM_OVERHEAD_BYTES > limit:
            raise ValueError(f"a sequence of {largest} bytes does not fit into replay.max-gb {self.config.max_gb}")
        with self._lock:
            for blob, priority, steps, usable in zip(blobs, priorities, new_steps, _usable(priorities), strict=True):
                if usable:
                    self._insert(bytes(blob), float(priority), int(steps))
                else:
                    self.total_refused_sequences += 1

    def _insert(self, blob: bytes, priority: float, new_steps: int) -> None:
        size = len(blob) + ITEM_OVERHEAD_BYTES
        while self._order and (
            self.num_steps + new_steps > self.config.capacity_steps or self.num_bytes + size > self.config.max_gb * 1e9
        ):
            self._evict()
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._blobs[slot] = blob
        self._keys[slot] = self._life_bits + self.total_added_sequences
        self._new_steps[slot] = new_steps
        self.total_added_sequences += 1
        self.total_added_steps += new_steps
        self._born[slot] = self.total_added_steps
        self._set_priorities(np.array([slot]), np.array([priority]))
        self._order.append(slot)
        self.num_steps += new_steps
        self.num_bytes += size

    def _evict(self) -> None:
        slot = self._order.popleft()
        blob = self._blobs[slot]
        assert blob is not None
        self.num_bytes -= len(blob) + ITEM_OVERHEAD_BYTES
        self.num_steps -= int(self._new_steps[slot])
        self._blobs[slot] = None
        self._keys[slot] = -1
        self._priorities[slot] = 0.0
        self._tree.set(np.array([slot]), np.zeros(1))
        self._free.append(slot)
        self.total_evicted_sequences += 1

    def _grow(self) -> None:
        old = len(self._blobs)
        self._tree.grow(2 * old)
        self._blobs += [None] * old
        self._keys = np.concatenate([self._keys, np.full(old, -1, np.int64)])
        self._new_steps = np.concatenate([self._new_steps, np.zeros(old, np.int64)])
        self._born = np.concatenate([self._born, np.zeros(old, np.int64)])
        self._priorities = np.concatenate([self._priorities, np.zeros(old)])
        self._free = list(range(2 * old - 1, old - 1, -1))

    def _set_priorities(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        self._priorities[slots] = priorities
        self._tree.set(slots, np.maximum(priorities, PRIORITY_FLOOR) ** self.config.priority_exponent)

    @property
    def mass(self) -> float:
        """Sum of priority ** exponent over all sequences: what a shard's share of the draws is proportional to."""
        with self._lock:
            return self._tree.total

    def sample(self, batch_size: int) -> SampledSequences:
        """``batch_size`` sequences, one from each equal share of the priority mass (stratified).

        The same sequence may come twice. Raises ValueError while the replay is empty.
        """
        with self._lock:
            return self.sample_at((np.arange(batch_size) + self._rng.random(batch_size)) / batch_size)

    def sample_at(self, fractions: np.ndarray) -> SampledSequences:
        """The sequences at these fractions [B] in [0, 1) of the priority mass; ValueError while the replay is empty."""
        with self._lock:
            if not self._order:
                raise ValueError("the replay is empty: nothing to sample yet")
            total = self._tree.total
            slots = self._tree.find(np.minimum(fractions * total, np.nextafter(total, 0)))
            blobs = [blob for slot in slots if (blob := self._blobs[slot]) is not None]
            return SampledSequences(
                slots=slots,
                keys=self._keys[slots],
                probabilities=self._tree.get(slots) / total,
                blob=np.frombuffer(b"".join(blobs), np.uint8),
                offsets=np.cumsum([0, *(len(blob) for blob in blobs)], dtype=np.int64),
                ages=self.total_added_steps - self._born[slots],
                shards=np.zeros(len(slots), np.int64),
            )

    def update_priorities(self, slots: np.ndarray, keys: np.ndarray, priorities: np.ndarray) -> int:
        """Give sampled sequences new priorities; returns how many were applied.

        Passed over: sequences evicted meanwhile (their key is gone), and priorities not finite or negative.
        """
        slots, keys = np.asarray(slots, np.int64), np.asarray(keys, np.int64)
        priorities = np.asarray(priorities, np.float64)
        with self._lock:
            # A restarted shard may have fewer slots than the learner remembers.
            valid = _usable(priorities) & (slots >= 0) & (slots < len(self._keys)) & (keys >= 0)
            valid[valid] = self._keys[slots[valid]] == keys[valid]
            self._set_priorities(slots[valid], priorities[valid])
            return int(valid.sum())

    def priorities(self) -> np.ndarray:
        """Priorities of all stored sequences, oldest first, float64 [n]; a copy."""
        with self._lock:
            return self._priorities[np.array(self._order, np.int64)]

    def stats(self) -> dict[str, float]:
        """Fill and priorities, as numbers by name."""
        with self._lock:
            held = self._priorities[self._keys >= 0]
            return {
                "sequences": float(len(self._order)),
                "steps": float(self.num_steps),
                "bytes": float(self.num_bytes),
                "fill_steps": self.num_steps / self.config.capacity_steps,
                "fill_bytes": self.num_bytes / (self.config.max_gb * 1e9),
                "priority_mean": float(held.mean()) if len(held) else 0.0,
                "priority_max": float(held.max()) if len(held) else 0.0,
                "evicted": float(self.total_evicted_sequences),
                "refused": float(self.total_refused_sequences),
            }

    def check_valid(self) -> None:
        """Raise AssertionError unless slots, order, tree and counters agree; O(n), for tests."""
        with self._lock:
            self._tree.check_valid()
            held = np.array(self._order, np.int64)
            expect = {slot for slot, blob in enumerate(self._blobs) if blob is not None}
            checks = {
                "order and slots differ": len(held) == len(expect) and set(held.tolist()) == expect,
                "free and held slots overlap": expect.isdisjoint(self._free),
                "slots are missing": len(expect) + len(self._free) == len(self._blobs),
                "steps are miscounted": self.num_steps == int(self._new_steps[held].sum()),
                "bytes are miscounted": self.num_bytes
                == sum(len(blob) + ITEM_OVERHEAD_BYTES for blob in self._blobs if blob is not None),
                "keys are out of order": bool(np.all(np.diff(self._keys[held]) > 0)),
                "an empty slot has a key": int((self._keys >= 0).sum()) == len(expect),
                "an empty slot can be drawn": bool(np.all(self._tree.get(np.array(self._free, np.int64)) == 0)),
                "a held slot cannot be drawn": bool(np.all(self._tree.get(held) > 0)),
                "a limit is exceeded": self.num_bytes <= self.config.max_gb * 1e9
                and self.num_steps <= self.config.capacity_steps,
            }
            for problem, fine in checks.items():
                if not fine:
                    raise AssertionError(problem)

    def save(self, directory: Path, name: str, gently: bool = False) -> dict[str, Written]:
        """Write everything as ``name.json`` (counters, random state), ``name.npz`` and ``name.blobs``; returns all.

        The state is that of the moment of the call: blobs are streamed without a second copy in memory, and
        without the lock, so that actors and learner need not wait for the disk. ``gently`` takes a third of a core at
        most, and three times as long, where they share the processor.
        """
        with self._lock:
            order = np.array(self._order, np.int64)
            blobs = [blob for slot in self._order if (blob := self._blobs[slot]) is not None]
            free, new_steps = np.array(self._free, np.int64), self._new_steps[order]
            born, priorities = self._born[order], self._priorities[order]
            state = {
                "num_slots": len(self._blobs),
                "total_added_steps": self.total_added_steps,
                "total_added_sequences": self.total_added_sequences,
                "total_evicted_sequences": self.total_evicted_sequences,
                "rng": self._rng.bit_generator.state,
            }
        with ChecksummedFile(directory / f"{name}.blobs") as stored:
            # Many at a time: single ones cost more in Python than on the disk.
            for first in range(0, len(blobs), BLOBS_AT_ONCE):
                begun = time.perf_counter()
                stored.write(b"".join(blobs[first : first + BLOBS_AT_ONCE]))
                if gently:
                    time.sleep(2 * (time.perf_counter() - begun))
        sizes = np.array([len(blob) for blob in blobs], np.int64)
        with ChecksummedFile(directory / f"{name}.npz") as packed:
            np.savez(
                packed,
                order=order,
                free=free,
                new_steps=new_steps,
                born=born,
                priorities=priorities,
                sizes=sizes,
            )
        with ChecksummedFile(directory / f"{name}.json") as counters:
            counters.write(json.dumps({**state, "blobs_crc32": stored.written.crc32}).encode())
        files = {"blobs": stored, "npz": packed, "json": counters}
        return {f"{name}.{kind}": file.written for kind, file in files.items()}

    def load(self, directory: Path, name: str, exact: bool = True) -> None:
        """Continue from `save`, if ``exact`` draw for draw, else with this replay's own random numbers.

        All keys are new. Where the limits are smaller now, the oldest are left out. Raises ValueError, leaving the
        replay as it was, if a file is missing or damaged.
        """
        try:
            state = read_json(directory / f"{name}.json")
            saved = load_arrays(directory / f"{name}.npz")
            _check_saved(saved, state)
            steps = np.cumsum(saved["new_steps"][::-1])
            size = np.cumsum(saved["sizes"][::-1] + ITEM_OVERHEAD_BYTES)
            # Both sums rise from the newest to the oldest, so those that fit are the newest.
            fits = (steps <= self.config.capacity_steps) & (size <= self.config.max_gb * 1e9)
            first = len(fits) - int(fits.sum())
            blobs, checksum = _read_blobs(directory / f"{name}.blobs", saved["sizes"], first)
            require(checksum == state["blobs_crc32"], "the sequences do not have the checksum recorded for them")
            rng = np.random.default_rng()
            rng.bit_generator.state = state["rng"]
            counters = {
                key: int(state[f"total_{key}"]) for key in ("added_steps", "added_sequences", "evicted_sequences")
            }
        except Exception as error:  # each parser fails in its own way on a damaged file
            raise ValueError(f"cannot load the replay {directory / name}: {type(error).__name__}: {error}") from error
        kept = {key: saved[key][first:] for key in ("order", "new_steps", "born", "priorities", "sizes")}
        with self._lock:
            self._clear(int(state["num_slots"]))
            order = kept["order"]
            for slot, blob in zip(order, blobs, strict=True):
                self._blobs[slot] = blob
            added = counters["added_sequences"]
            self._keys[order] = self._life_bits + np.arange(added - len(order), added)
            self._new_steps[order] = kept["new_steps"]
            self._born[order] = kept["born"]
            self._set_priorities(order, kept["priorities"])
            self._free = saved["free"].tolist() + saved["order"][:first].tolist()
            self._order = deque(order.tolist())
            self.num_steps = int(kept["new_steps"].sum())
            self.num_bytes = int(kept["sizes"].sum()) + ITEM_OVERHEAD_BYTES * len(order)
            self.total_added_steps = counters["added_steps"]
            self.total_added_sequences = counters["added_sequences"]
            self.total_evicted_sequences = counters["evicted_sequences"] + first
            if exact:
                self._rng = rng


def _usable(priorities: np.ndarray) -> np.ndarray:
    """Not NaN, not negative, and not so large that a sum of weights could overflow; bool [n]."""
    return (priorities >= 0) & (priorities <= np.finfo(np.float32).max)


def _read_blobs(path: Path, sizes: np.ndarray, first: int) -> tuple[list[bytes], int]:
    """The blobs from number ``first`` on, and the CRC-32 of the whole file."""
    blobs: list[bytes] = []
    checksum = 0
    with open_plain(path) as file:
        recorded = int(sizes.sum())
        require(os.fstat(file.fileno()).st_size == recorded, "the sequences do not have the size recorded for them")
        for number, size in enumerate(sizes.tolist()):
            blob = file.read(size)
            checksum = zlib.crc32(blob, checksum)
            if number >= first:
                blobs.append(blob)
    return blobs, checksum


def _check_saved(saved: dict[str, np.ndarray], state: dict[str, Any]) -> None:
    """Raise ValueError unless these arrays could have come from `save`."""
    order, free = saved["order"], saved["free"]
    per_sequence = [saved[key] for key in ("new_steps", "born", "priorities", "sizes")]
    require(all(array.shape == order.shape for array in per_sequence), "its arrays differ in length")
    slots = np.sort(np.concatenate([order, free]))
    require(np.array_equal(slots, np.arange(int(state["num_slots"]))), "its slots do not fit together")
    born = [0, *saved["born"], int(state["total_added_steps"])]
    require(bool(np.all(np.diff(born) >= 0)), "its sequences are out of order")
    require(len(order) <= int(state["total_added_sequences"]), "it holds more sequences than were ever added")
    require(bool(np.all(_usable(saved["priorities"]))), "its priorities are not finite or are negative")
    require(bool(np.all(saved["new_steps"] >= 0) and np.all(saved["sizes"] >= 0)), "its sizes are negative")
