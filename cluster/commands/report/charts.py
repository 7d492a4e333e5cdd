"""Charts as SVG text: curves with spread, stacked shares, intervals. Numbers in, markup out; no library."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

# Okabe and Ito's palette, told apart by the colour-blind too; grey for its yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888")
DASHES = ("", "7 3", "7 3 2 3", "2 3")
_VIRIDIS = (
    "#440154",
    "#482878",
    "#3e4a89",
    "#31688e",
    "#26828e",
    "#1f9e89",
    "#35b779",
    "#6dcd59",
    "#b4de2c",
    "#fde725",
)
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 40


@dataclass(frozen=True)
class Line:
    """A curve; ``low`` and ``high`` bound its shaded spread, ``faint`` are the (x, y) of its single runs."""

    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    faint: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)


@dataclass(frozen=True)
class Interval:
    """A value with an interval, and the ``points`` that it came from."""

    label: str
    value: float
    low: float
    high: float
    points: Sequence[float] = ()


class _Plane:
    """Maps data to pixels, and draws the frame with its numbers."""

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], xlabel: str, ylabel: str, width: int, height: int
    ) -> None:
        (self.x0, self.x1), (self.y0, self.y1) = _widened(*x), _widened(*y)
        self.width, self.height = width, height
        self.parts = [
            f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
            f'aria-label="{html.escape(ylabel)} over {html.escape(xlabel)}">'
        ]
        for tick in _ticks(self.y0, self.y1):
            level = self.to_y(tick)
            self.parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>'
            )
            self.parts.append(
                f'<text class="tick" x="{LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">{_number(tick)}</text>'
            )
        for tick in _ticks(self.x0, self.x1):
            place, under = self.to_x(tick), height - BOTTOM + 16
            self.parts.append(
                f'<text class="tick" x="{place:.1f}" y="{under}" text-anchor="middle">{_number(tick)}</text>'
            )
        middle = (LEFT + width - RIGHT) / 2
        self.parts.append(
            f'<text class="label" x="{middle}" y="{height - 6}" text-anchor="middle">{html.escape(xlabel)}</text>'
        )
        half = (TOP + height - BOTTOM) / 2
        self.parts.append(
            f'<text class="label" transform="translate(13 {half}) rotate(-90)" text-anchor="middle">'
            f"{html.escape(ylabel)}</text>"
        )

    def to_x(self, value: float) -> float:
        return LEFT + (value - self.x0) / (self.x1 - self.x0) * (self.width - LEFT - RIGHT)

    def to_y(self, value: float) -> float:
        return self.height - BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (self.height - TOP - BOTTOM)

    def path(self, x: np.ndarray, y: np.ndarray) -> str:
        """Points of a polyline; what is not finite is left out."""
        return " ".join(f"{self.to_x(a):.1f},{self.to_y(b):.1f}" for a, b in zip(x, y, strict=True) if math.isfinite(b))

    def svg(self) -> str:
        return "\n".join([*self.parts, "</svg>"])


def line_chart(
    lines: Sequence[Line],
    xlabel: str,
    ylabel: str,
    references: Sequence[tuple[float, str]] = (),
    width: int = 470,
    height: int = 290,
) -> str:
    """Curves with their spread; ``references`` are horizontal lines with a name. Empty text if there is no curve."""
    lines = [line for line in lines if np.isfinite(line.y).any()]
    if not lines:
        return ""
    xs = np.concatenate([part for line in lines for part in (line.x, *(x for x, _ in line.faint))])
    ys = np.concatenate([part for line in lines for part in _heights(line)])
    ys = np.concatenate([ys[np.isfinite(ys)], [value for value, _ in references]])
    plane = _Plane((xs.min(), xs.max()), (ys.min(), ys.max()), xlabel, ylabel, width, height)
    for value, name in references:
        level = plane.to_y(value)
        plane.parts.append(
            f'<line class="reference" x1="{LEFT}" x2="{width - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>'
        )
        plane.parts.append(
            f'<text class="tick" x="{width - RIGHT - 4}" y="{level - 4:.1f}" text-anchor="end">{name}</text>'
        )
    for index, line in enumerate(lines):
        colour, dash = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
        if line.low is not None and line.high is not None:
            edge = plane.path(line.x, line.high) + " " + plane.path(line.x[::-1], line.low[::-1])
            plane.parts.append(f'<polygon points="{edge}" fill="{colour}" opacity="0.16"/>')
        for x, y in line.faint:
            plane.parts.append(f'<polyline points="{plane.path(x, y)}" fill="none" stroke="{colour}" opacity="0.3"/>')
        style = f'stroke-dasharray="{dash}"' if dash else ""
        plane.parts.append(
            f'<polyline points="{plane.path(line.x, line.y)}" fill="none" stroke="{colour}" stroke-width="2" {style}>'
            f"<title>{html.escape(line.label)}</title></polyline>"
        )
        if len(line.x) <= 30:
            plane.parts += [_dot(plane.to_x(x), plane.to_y(y), 2.6, colour, f"{line.label}: {y:.4g}")
                            for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]  # fmt: skip
    return plane.svg() + (legend([line.label for line in lines]) if len(lines) > 1 else "")


def _heights(line: Line) -> list[np.ndarray]:
    return [line.y, *(part for part in (line.low, line.high) if part is not None), *(y for _, y in line.faint)]


def stacked_chart(
    labels: Sequence[str], x: np.ndarray, shares: np.ndarray, xlabel: str, width: int = 470, height: int = 290
) -> str:
    """``shares`` [N, points] stacked, the first at the bottom, in colours from dark to bright."""
    plane = _Plane((x.min(), x.max()), (0.0, 1.0), xlabel, "share of pulls", width, height)
    below = np.zeros(shares.shape[1])
    colours = [_VIRIDIS[round(i * (len(_VIRIDIS) - 1) / max(len(labels) - 1, 1))] for i in range(len(labels))]
    for label, share, colour in zip(labels, shares, colours, strict=True):
        above = below + share
        edge = plane.path(x, above) + " " + plane.path(x[::-1], below[::-1])
        plane.parts.append(f'<polygon points="{edge}" fill="{colour}"><title>{html.escape(label)}</title></polygon>')
        below = above
    return plane.svg() + legend(labels[::-1], colours[::-1])


def interval_chart(rows: Sequence[Interval], xlabel: str, width: int = 560) -> str:
    """A row per value: a dot, its interval, and small dots for what it came from."""
    labels_width = 12 + int(max(6.4 * len(row.label) for row in rows))
    height = TOP + 26 * len(rows) + BOTTOM
    values = np.array([value for row in rows for value in (row.value, row.low, row.high, *row.points)])
    plane = _Plane((values.min(), values.max()), (0.0, 1.0), xlabel, "", width, height)
    # The vertical axis counts rows and shows no numbers.
    plane.parts = [part for part in plane.parts if 'class="grid"' not in part and 'text-anchor="end"' not in part]
    for index, row in enumerate(rows):
        y, colour = TOP + 26 * index + 13, COLOURS[index % len(COLOURS)]
        ends = plane.to_x(row.low), plane.to_x(row.high)
        plane.parts.append(
            f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="6" '
            'opacity="0.35"/>'
        )
        plane.parts += [_dot(plane.to_x(point), y, 2.2, colour, f"{point:.4g}") for point in row.points]
        text = f"{row.label}: {row.value:.4g} ({row.low:.4g} to {row.high:.4g})"
        plane.parts.append(_dot(plane.to_x(row.value), y, 5, colour, text))
    names = "".join(
        f'<text class="name" x="{labels_width - 8}" y="{TOP + 26 * i + 17}" text-anchor="end">'
        f"{html.escape(row.label)}</text>"
        for i, row in enumerate(rows)
    )
    names = f'<svg width="{labels_width}" height="{height}">{names}</svg>'
    return f'<div class="row">{names}{plane.svg()}</div>'


def legend(labels: Sequence[str], colours: Sequence[str] = ()) -> str:
    """Colours and their names, under a chart."""
    items = []
    for index, label in enumerate(labels):
        colour = colours[index] if colours else COLOURS[index % len(COLOURS)]
        items.append(f'<span><i style="background:{colour}"></i>{html.escape(label)}</span>')
    return f'<div class="legend">{"".join(items)}</div>'


def _dot(x: float, y: float, radius: float, colour: str, title: str) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"><title>{html.escape(title)}</title></circle>'
    )


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range that is not empty."""
    margin = 0.03 * (high - low) if high > low else max(abs(low) * 0.05, 0.5)
    return (low - margin, high + margin) if (low, high) != (0.0, 1.0) else (low, high)


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within a range."""
    raw = (high - low) / about
    magnitude = 10 ** math.floor(math.log10(raw))
    step = magnitude * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * n for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{round(value / unit, 6):g}{suffix}"
    return f"{round(value, 6):g}"
