"""The run's one metric writer: TensorBoard for watching, ``metrics.jsonl`` for plotting.

The x-axis is environment frames, in one line over any number of resumes.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import summary as summaries

from cluster.run.run_folder import METRICS_FILE
from cluster.telemetry.tensorboard.event_file import event_file, record
from replay.whole_files import GrowingFile

ENV_FRAMES, MINUTES = "env_frames", "minutes"
_POSITIVE_EDGES = 1e-12 * 1.1 ** np.arange(774)
HISTOGRAM_EDGES = [*-_POSITIVE_EDGES[::-1], 0.0, *_POSITIVE_EDGES]
"""TensorBoard's own bins, from 1e-12 to 1e20 on both sides."""


class MetricLog:
    """Writes scalars to TensorBoard and to ``run_dir/metrics.jsonl``, all else to TensorBoard only.

    Each row of the file is one call: ``{"env_frames": ..., "minutes": ..., tag: value, ...}``, minutes of wall time
    since the run began, not counting the time between a stop and its resume. Values that are not finite are
    written as they are (NaN, Infinity) and counted per tag in ``nonfinite``.

    Nothing here raises when the disk is full: what has no room is left out, whole, and counted by `lost`.
    """

    def __init__(self, run_dir: Path, purge_from: int | None, again: tuple[str, int] | None = None) -> None:
        """``purge_from``: None for a new run; F to resume at F frames, dropping what was logged beyond F.

        ``again``: tag and frames, up to F, of a row that the resumed run writes once more.
        """
        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        self.nonfinite: Counter[str] = Counter()
        self._lost, self._trouble = 0, ""
        path = run_dir / METRICS_FILE
        minutes_before = 0.0
        if purge_from is None and path.exists():
            # Of a start that ended before its first checkpoint.
            purge_from = -1
        if purge_from is not None:
            minutes_before = _drop_rows_beyond(path, purge_from, again)
        self._began = time.monotonic() - 60 * minutes_before
        self._rows = GrowingFile(path)
        # TensorBoard hides the steps at and beyond purge_step; those at F itself belong to the resumed run's past.
        self._events = event_file(run_dir, None if purge_from is None else purge_from + 1)

    @property
    def minutes(self) -> float:
        """Minutes of wall time of all sessions until now."""
        return (time.monotonic() - self._began) / 60

    def scalars(self, values: Mapping[str, float], env_frames: int, minutes: float | None = None) -> None:
        """Write values of one moment, one row of the file; nothing if ``values`` is empty.

        The moment is now, or that of ``minutes`` if they are given: a score becomes known long after its weights were.
        """
        if not values:
            return
        minutes = self.minutes if minutes is None else minutes
        row: dict[str, float] = {ENV_FRAMES: int(env_frames), MINUTES: round(minutes, 4)}
        for tag, value in values.items():
            row[tag] = float(value)
            if not math.isfinite(row[tag]):
                self.nonfinite[tag] += 1
        points = [Summary.Value(tag=tag, simple_value=row[tag]) for tag in values]
        self._show(Summary(value=points), env_frames)
        self._append(self._rows, (json.dumps(row) + "\n").encode())

    def histogram(self, tag: str, values: Any, env_frames: int) -> None:
        """Write the distribution of an array or list; values that are not finite are counted and left out."""
        array = np.asarray(values, dtype=np.float64).ravel()
        finite = array[np.isfinite(array)]
        if finite.size < array.size:
            self.nonfinite[tag] += array.size - finite.size
        if finite.size:
            self._show(summaries.histogram(tag, finite, HISTOGRAM_EDGES), env_frames)

    def text(self, tag: str, markdown: str, env_frames: int) -> None:
        """Write a text for TensorBoard's Text tab: the configuration, the plan, a warning."""
        self._show(summaries.text(tag, markdown), env_frames)

    def image(self, tag: str, pixels: np.ndarray, env_frames: int) -> None:
        """Write a picture, uint8 RGB [H, W, 3]."""
        self._show(summaries.image(tag, pixels, dataformats="HWC"), env_frames)

    def animation(self, tag: str, encoded: bytes, height: int, width: int, env_frames: int) -> None:
        """Write an animated GIF; it moves on TensorBoard's Images page."""
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
        self._show(Summary(value=[Summary.Value(tag=tag, image=image)]), env_frames)

    def layout(self, chapters: dict[str, dict[str, list]]) -> None:
        """Arrange the Custom Scalars page."""
        self._show(summaries.custom_scalars(chapters))

    def hyperparameters(self, values: Mapping[str, bool | int | float | str], score_tags: Iterable[str]) -> None:
        """Make this run a row of the HParams page: ``values`` beside the newest value of each of ``score_tags``.

        ``SummaryWriter.add_hparams`` would open a run of its own for that.
        """
        for summary in summaries.hparams(dict(values), dict.fromkeys(score_tags, 0.0)):
            self._show(summary)

    def lost(self) -> tuple[int, str]:
        """(pieces that had no room since this was last asked, why the newest of them had none)."""
        lost, self._lost = self._lost, 0
        return lost, self._trouble

    def close(self) -> None:
        """Release both files; the log cannot be used afterwards."""
        self._events.close()
        self._rows.close()

    def _show(self, summary: Summary, env_frames: int = 0) -> None:
        self._append(self._events, record(summary, env_frames))

    def _append(self, file: GrowingFile, piece: bytes) -> None:
        try:
            file.append(piece)
        except OSError as error:
            self._lost += 1
            self._trouble = error.strerror or str(error)


def plain(text: str) -> str:
    """Markdown that shows ``text`` as it is, also in a cell of a table: no markup of its own, no line breaks."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", " ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")


class MetricSeries(NamedTuple):
    """One metric over a run; three arrays of equal length, in the order written."""

    env_frames: np.ndarray
    minutes: np.ndarray
    values: np.ndarray


def read_metrics(run_dir: Path) -> dict[str, MetricSeries]:
    """Every scalar of a run by tag, from its ``metrics.jsonl``; FileNotFoundError if it has none."""
    return series_by_tag(
        (tag, row[ENV_FRAMES], row[MINUTES], value)
        for row in _read_rows(Path(run_dir) / METRICS_FILE)
        for tag, value in row.items()
        if tag not in (ENV_FRAMES, MINUTES)
    )


def series_by_tag(points: Iterable[tuple[str, float, float, float]]) -> dict[str, MetricSeries]:
    """The series of each tag, from (tag, env_frames, minutes, value)."""
    found: dict[str, list[tuple[float, ...]]] = {}
    for tag, *point in points:
        found.setdefault(tag, []).append(tuple(point))
    series = {}
    for tag, rows in found.items():
        frames, minutes, values = zip(*rows, strict=True)
        series[tag] = MetricSeries(np.array(frames, np.int64), np.array(minutes), np.array(values))
    return series


def reached(metrics: Mapping[str, MetricSeries]) -> tuple[int, float]:
    """(env_frames, minutes) of the newest values; zeros without any."""
    frames = max((int(series.env_frames[-1]) for series in metrics.values()), default=0)
    return frames, max((float(series.minutes[-1]) for series in metrics.values()), default=0.0)


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a metrics file; a line torn by a killed process, or of anything but numbers, is passed over."""
    with path.open("rb") as file:
        for line in file:
            row = _row_of(line)
            if row is not None:
                yield row


def _row_of(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    numbers = isinstance(row, dict) and all(isinstance(value, int | float) for value in row.values())
    return row if numbers and ENV_FRAMES in row and MINUTES in row and 0 <= row[ENV_FRAMES] < 2**63 else None


def _drop_rows_beyond(path: Path, env_frames: int, again: tuple[str, int] | None) -> float:
    """Minutes of the last row kept; rewrites the file without the rows beyond ``env_frames``, whole or not at all.

    Nor is the row kept that is to be written again: (a tag that it has, its frames).
    """
    if not path.exists():
        return 0.0
    minutes = 0.0
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for row in _read_rows(path):
            if row[ENV_FRAMES] <= env_frames and not (again and again[0] in row and again[1] == row[ENV_FRAMES]):
                file.write(json.dumps(row) + "\n")
                minutes = max(minutes, row[MINUTES])
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return minutes
