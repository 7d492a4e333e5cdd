"""Warnings about a run that goes on but is not well, each given once, with what to try.

`Telemetry` asks at every log point; docs/metrics.md describes the tags.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from cluster.run.config import TrainConfig

LITTLE_ROOM_BYTES = 500e6
SETTLED_UPDATES = 1000
"""Before so many updates, curves often look ill without being so."""
PATIENCE = 6
"""Log points in a row at which an ailment must show."""
SWOLLEN, LEEWAY_BYTES = 1.5, 1e9
"""A process has grown beyond its plan when it takes so many times that much and so many bytes more."""
DEAD_SHARE = 0.02
"""Of the steps, that with an alpha above 1 below which novelty tells nothing; 0.1 to 0.5 is usual."""


class HealthWatch:
    """Remembers what it has said; ``check`` returns what is new."""

    def __init__(self, config: TrainConfig, planned_bytes: Mapping[str, float] = MappingProxyType({})) -> None:
        """``planned_bytes``: resident memory that a process of each kind may need (`Topology.planned_bytes`)."""
        self._config, self._planned_bytes = config, planned_bytes
        self._said: set[str] = set()
        self._in_a_row: Counter[str] = Counter()

    def check(self, values: Mapping[str, float], updates: int, nonfinite: Mapping[str, int]) -> list[str]:
        """One sentence for each ailment of this log point's ``values`` that was not told before."""
        found = dict(self._ailments(values, updates))
        for name in list(self._in_a_row):
            if name not in found:
                del self._in_a_row[name]
        self._in_a_row.update(list(found))
        found = {name: text for name, text in found.items() if self._in_a_row[name] >= PATIENCE}
        for tag in nonfinite:
            found[tag] = f"{tag} is not a finite number: see docs/troubleshooting.md"
        found |= dict(_losses(values))
        new = {name: text for name, text in found.items() if name not in self._said}
        self._said |= set(new)
        return list(new.values())

    def check_room(self, folders: Iterable[Path]) -> list[str]:
        """One sentence for each of ``folders`` whose disk has got little room and was not told before."""
        found = []
        for folder in folders:
            with contextlib.suppress(OSError):
                free = shutil.disk_usage(folder).free
                if free < LITTLE_ROOM_BYTES and str(folder) not in self._said:
                    self._said.add(str(folder))
                    found.append(
                        f"the disk of {folder} has {free / 1e6:.0f} MB left: make room before checkpoints, logs or "
                        "Ray's processes find none"
                    )
        return found

    def _ailments(self, values: Mapping[str, float], updates: int) -> Iterator[tuple[str, str]]:
        """What may pass again by itself."""
        config = self._config
        yield from self._swollen(values)
        if values.get("replay/fill_bytes", 0) > 0.98 and values.get("replay/fill_steps", 1) < 0.9:
            yield (
                "replay_bytes",
                f"the replay is full at {config.replay.max_gb:g} GB with {values['replay/fill_steps']:.0%} of "
                "replay.capacity-steps: raise --replay.max-gb for a longer memory",
            )
        if updates < SETTLED_UPDATES:
            return
        novelty = config.intrinsic.novelty != "episodic" and config.family.beta_max > 0
        if novelty and values.get("intrinsic/alpha_above_1", 1.0) < DEAD_SHARE:
            yield (
                "rnd_dead",
                "life-long novelty is dead (intrinsic/alpha_above_1 is near 0): are the observations constant?",
            )
        if novelty and values.get("return/intrinsic", 1.0) == 0:
            yield (
                "no_novelty",
                "no episode earned an intrinsic reward: they are shorter than 10 steps, or all look alike",
            )
        if config.loss.trace == "retrace" and values.get("learner/trace_coefficient", 1.0) < 0.2:
            yield "traces", "nearly all traces are cut after a step: try --loss.trace peng"
        if values.get("learner/fetch_seconds", 0.0) > values.get("learner/update_seconds", 1.0):
            yield "fetching", "the learner waits for batches longer than it computes: the replay is the bottleneck"

    def _swollen(self, values: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """Processes that take far more memory than the plan gives their kind; most likely something leaks."""
        for tag, megabytes in values.items():
            group, _, process = tag.partition("/")
            kind, _, index = process.partition("_")
            planned = self._planned_bytes.get(kind) if group == "memory_mb" else None
            if planned is None or 1e6 * megabytes < SWOLLEN * planned + LEEWAY_BYTES:
                continue
            subject = "this process" if kind == "all" else f"{kind} {index}".strip()
            text = f"{subject} takes {megabytes / 1e3:.1f} GB where {planned / 1e9:.1f} GB were planned"
            if kind == "worker":
                text += (
                    ": its environments may leak; --cluster.worker-memory-gb N replaces a worker that takes more than N"
                )
            elif kind == "evaluator" or kind == "all":
                text += ": the environments may leak"
            yield tag, text


def _losses(values: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """What cannot be undone, and is told at once."""
    if values.get("learner/bad_updates", 0) > 0:
        yield (
            "bad_updates",
            "an update had a NaN or an infinity and was skipped; if more follow, lower the learning rates",
        )
    if values.get("health/lost_sequences", 0) > 0:
        yield "lost_sequences", "sequences could not be delivered to the replay and are lost: see run/events"
