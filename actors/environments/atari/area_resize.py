"""Area-averaged resizing of grey frames, to the last bit what OpenCV's INTER_AREA makes of them.

The emulator's vector environment resizes with an OpenCV of its own; `atari/emulator.py` must show the same frames.
Plain numpy, so that OpenCV does not become a dependency for one function.
"""

from __future__ import annotations

import math

import numpy as np


class AreaResize:
    """A function from uint8 [H, W] to uint8 [height, width], which are not larger."""

    def __init__(self, source: tuple[int, int], height: int, width: int) -> None:
        self._rows, row_weights = _cells(source[0], height)
        self._row_weights = row_weights[:, :, None]
        self._columns, self._column_weights = _cells(source[1], width)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        # OpenCV's order: within rows first, every product and every sum rounded to float32, ties to even at the end.
        narrow = _weighted_sum(frame, self._columns, self._column_weights, axis=1)
        return np.rint(_weighted_sum(narrow, self._rows, self._row_weights, axis=0)).astype(np.uint8)


def _weighted_sum(values: np.ndarray, cells: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    total = values.take(cells[0], axis) * weights[0]
    for covered, weight in zip(cells[1:], weights[1:], strict=True):
        total += values.take(covered, axis) * weight
    return total


def _cells(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Which source cells each target cell covers, int64 [most, target], and with which weights, float32."""
    scale = 1 / (target / source)
    of_targets: list[list[tuple[int, float]]] = []
    for position in range(target):
        begin, end = position * scale, position * scale + scale
        width = min(scale, source - begin)
        last = min(math.floor(end), source - 1)
        first = min(math.ceil(begin), last)
        covered = [(first - 1, (first - begin) / width)] if first - begin > 1e-3 else []
        covered += [(cell, 1 / width) for cell in range(first, last)]
        if end - last > 1e-3:
            covered.append((last, min(end - last, 1.0, width) / width))
        of_targets.append(covered)
    most = max(map(len, of_targets))
    table = np.array([covered + [(0, 0.0)] * (most - len(covered)) for covered in of_targets]).transpose(2, 1, 0)
    return table[0].astype(np.int64), table[1].astype(np.float32)
