"""Pictures for TensorBoard's Images page: heat maps with labels, and an episode as an animation.

Arrays in, RGB arrays or encoded bytes out.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Ten anchors of matplotlib's viridis, dark to bright.
_VIRIDIS = np.array(
    [
        (68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142),
        (31, 158, 137), (53, 183, 121), (109, 205, 89), (180, 222, 44), (253, 231, 37),
    ],
    np.float64,
)  # fmt: skip
_NOTHING = (225, 225, 225)
_INK, _FAINT, _PAPER = (30, 30, 30), (110, 110, 110), (255, 255, 255)
_FONT, _SMALL = ImageFont.load_default(14), ImageFont.load_default(12)
_ROW, _MARGIN, _TITLE = 24, 8, 30
_TIME_AXIS = 240
"""Pixels of a heat map's time axis: TensorBoard shows pictures some 350 pixels wide, so more would shrink the text."""


def colours(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """RGB uint8 [..., 3] of ``values`` between ``low`` (dark) and ``high`` (bright); NaN is light grey."""
    values = np.asarray(values, np.float64)
    scaled = np.clip((np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12), 0, 1) * (len(_VIRIDIS) - 1)
    anchors = np.arange(len(_VIRIDIS))
    rgb = np.stack([np.interp(scaled, anchors, _VIRIDIS[:, channel]) for channel in range(3)], -1)
    rgb[np.isnan(values)] = _NOTHING
    return rgb.round().astype(np.uint8)


def heat_map(
    values: np.ndarray, row_labels: Sequence[str], title: str, first: str, last: str, low: float, high: float
) -> np.ndarray:
    """A labelled picture of ``values`` [rows, columns] over time, from ``first`` to ``last``; uint8 [H, W, 3].

    The newest value of each row is written at its right end.
    """
    rows, columns = values.shape
    labels = int(max(_FONT.getlength(label) for label in row_labels)) + 2 * _MARGIN
    width = _TIME_AXIS
    picture = Image.new("RGB", (labels + width + 46, _TITLE + rows * _ROW + 2 * _ROW), _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, 7), title, _INK, _FONT)
    if columns:
        cells = Image.fromarray(colours(values, low, high)).resize((width, rows * _ROW), Image.Resampling.NEAREST)
        picture.paste(cells, (labels, _TITLE))
    for row, label in enumerate(row_labels):
        top = _TITLE + row * _ROW + 4
        draw.text((_MARGIN, top), label, _INK, _FONT)
        newest = values[row, -1] if columns else np.nan
        draw.text((labels + width + 8, top), "" if np.isnan(newest) else f"{newest:.2f}", _INK, _FONT)
    under = _TITLE + rows * _ROW + 4
    draw.text((labels, under), first, _FAINT, _SMALL)
    draw.text((labels + width - _SMALL.getlength(last), under), last, _FAINT, _SMALL)
    _scale(picture, draw, labels, under + _ROW - 6, low, high)
    return np.asarray(picture)


def _scale(picture: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, low: float, high: float) -> None:
    """The colours from ``low`` to ``high``, with their numbers."""
    bar = colours(np.linspace(low, high, 160)[None], low, high)
    draw.text((left, top), f"{low:g}", _FAINT, _SMALL)
    begin = left + int(_SMALL.getlength(f"{low:g}")) + 6
    picture.paste(Image.fromarray(bar).resize((160, 12), Image.Resampling.NEAREST), (begin, top + 2))
    draw.text((begin + 166, top), f"{high:g}", _FAINT, _SMALL)


def table_of_numbers(
    values: np.ndarray, row_labels: Sequence[str], column_labels: Sequence[str], title: str
) -> np.ndarray:
    """``values`` [rows, columns] as coloured cells with their numbers, NaN as empty ones; uint8 [H, W, 3]."""
    rows, columns = values.shape
    texts = [["" if np.isnan(value) else f"{value:.4g}" for value in row] for row in values]
    cell = int(max([44.0, *(_SMALL.getlength(text) for row in texts for text in row)])) + 10
    labels = int(max(_FONT.getlength(label) for label in row_labels)) + 2 * _MARGIN
    width = max(labels + columns * cell, int(_FONT.getlength(title))) + 2 * _MARGIN
    picture = Image.new("RGB", (width, _TITLE + (rows + 1) * _ROW + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, 7), title, _INK, _FONT)
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    background = colours(values, low, high)
    for column, label in enumerate(column_labels):
        draw.text((labels + column * cell + 4, _TITLE + 4), label, _FAINT, _SMALL)
    for row, label in enumerate(row_labels):
        top = _TITLE + (row + 1) * _ROW
        draw.text((_MARGIN, top + 4), label, _INK, _FONT)
        for column in range(columns):
            left = labels + column * cell
            colour = tuple(int(channel) for channel in background[row, column])
            draw.rectangle((left, top, left + cell - 2, top + _ROW - 2), colour)
            bright = sum(colour) > 380
            draw.text((left + 4, top + 5), texts[row][column], _INK if bright else _PAPER, _SMALL)
    return np.asarray(picture)


def animation(frames: np.ndarray, frames_per_second: float, min_side: int = 160) -> tuple[bytes, int, int]:
    """(GIF, height, width) of ``frames`` uint8 [n, channels, H, W], enlarged until no side is below ``min_side``.

    Three channels are colours; of any other number the first is shown in grey.
    """
    colour = frames.shape[1] == 3
    pixels = np.moveaxis(frames, 1, -1) if colour else frames[:, 0]
    height, width = pixels.shape[1:3]
    factor = max(1, -(-min_side // min(height, width)))
    size = (factor * width, factor * height)
    pictures = [Image.fromarray(frame).resize(size, Image.Resampling.NEAREST) for frame in pixels]
    encoded = io.BytesIO()
    milliseconds = max(20, round(1000 / frames_per_second))
    pictures[0].save(encoded, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
    return encoded.getvalue(), size[1], size[0]
