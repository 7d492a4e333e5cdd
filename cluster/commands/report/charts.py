"""The charts of the report and of results/: curves with their spread, stacked shares, values with their intervals.

A chart draws on matplotlib's axes. `svg` makes markup of it for a page, `save_panels` a picture of several.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cluster.commands.report.statistics import (
    GRID_POINTS,
    Estimate,
    bootstrap_interval,
    estimate_mean,
    on_common_grid,
    thin,
)
from cluster.telemetry.metrics import MetricSeries

# Okabe and Ito's palette, told apart by the colour-blind too; grey for its yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888")
LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vP*X"
FRAMES, MINUTES = "environment frames", "minutes"
MILLISECONDS = 60_000.0
STYLE: dict[Any, Any] = {
    **{"font.sans-serif": ["DejaVu Sans", "sans-serif"], "text.parse_math": False},
    **{"font.size": 8, "axes.labelsize": 9, "figure.titlesize": 11, "axes.titlesize": 10},
    **{"axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True, "axes.edgecolor": "#888888"},
    # Text stays text, and the same numbers give the same bytes.
    **{"svg.fonttype": "none", "svg.hashsalt": "agent57"},
}
METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
TOOLTIP = "tooltip: "
"""Begins the gid of what shows the rest of its gid under the mouse."""

Panel = Callable[[Axes], Any]


def draw_curves(
    axis: Axes,
    curves: Mapping[str, Sequence[MetricSeries]],
    ylabel: str,
    xlabel: str = FRAMES,
    references: Sequence[tuple[float, str]] = (),
) -> None:
    """One line per label: the mean over its runs, its 95 % interval shaded, single runs faint; labels without runs
    are left out.

    ``xlabel`` `MINUTES` draws them against wall time. ``references`` are heights with a name, drawn unless they are
    so far away that the curves would look flat.
    """
    means: list[np.ndarray] = []
    scale = MILLISECONDS if xlabel == MINUTES else 1.0
    for index, (label, runs) in enumerate(curves.items()):
        if xlabel == MINUTES:
            runs = [run._replace(env_frames=np.rint(run.minutes * scale).astype(np.int64)) for run in runs]
        grid, values = on_common_grid(runs)
        if not grid.size:
            continue
        colour, style = _look(index)
        means.append(values.mean(0))
        marker = "o" if len(grid) == 1 else ""
        axis.plot(grid / scale, means[-1], style, color=colour, marker=marker, label=label, gid=TOOLTIP + label)
        if len(values) > 1:
            low, high = bootstrap_interval(values, resamples=2_000)
            axis.fill_between(grid / scale, low, high, color=colour, alpha=0.16, linewidth=0)
            for run in (thin(run, GRID_POINTS) for run in runs):
                axis.plot(run.env_frames / scale, run.values, color=colour, alpha=0.3, linewidth=0.7)
    for height, name in references if means else ():
        low, high = min(map(np.min, means)), max(map(np.max, means))
        room = max(1.5 * (high - low), 0.15 * max(abs(low), abs(high)))
        if low - room <= height <= high + room:
            axis.axhline(height, color="#999999", linestyle=":", linewidth=1)
            axis.text(0.99, height, name, transform=axis.get_yaxis_transform(), ha="right", va="bottom")
    _finish(axis, xlabel, ylabel)


def draw_shares(axis: Axes, arms: Mapping[str, Sequence[MetricSeries]], ylabel: str) -> None:
    """Stacked areas, the first arm at the bottom: each the mean over its runs; arms without runs are left out."""
    grid, _ = on_common_grid([run for runs in arms.values() for run in runs])
    if not grid.size:
        return
    shares = {
        label: np.mean([np.interp(grid, run.env_frames, run.values) for run in of_arm], axis=0)
        for label, of_arm in ((label, [thin(run, GRID_POINTS) for run in runs]) for label, runs in arms.items())
        if of_arm
    }
    # Arms are ordered, so their colours are too: from exploitative to exploratory.
    colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.97, len(shares)))
    areas = axis.stackplot(grid, list(shares.values()), labels=list(shares), colors=colours, linewidth=0)
    for label, area in zip(shares, areas, strict=True):
        area.set_gid(TOOLTIP + label)
    axis.set_ylim(0, 1)
    axis.margins(x=0)
    _finish(axis, FRAMES, ylabel)
    columns = 1 + (len(shares) - 1) // 16
    axis.legend(reverse=True, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, ncols=columns)


def draw_intervals(axis: Axes, rows: Mapping[str, Estimate], xlabel: str) -> None:
    """A row per value: a dot, its interval, and small dots for what it came from."""
    for place, (label, row) in enumerate(rows.items()):
        colour, _ = _look(place)
        axis.plot([row.low, row.high], [place, place], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
        for point in row.points:
            axis.plot([point], [place], "o", color=colour, markersize=3, gid=f"{TOOLTIP}{point:.4g}")
        text = f"{TOOLTIP}{label}: {row.value:.4g} ({row.low:.4g} to {row.high:.4g})"
        axis.plot([row.value], [place], "o", color=colour, markersize=7, gid=text)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    _finish(axis, xlabel, "")
    axis.set_yticks(range(len(rows)), list(rows))
    axis.grid(visible=False, axis="y")


def draw_sweep(
    axis: Axes, x: Sequence[float], lines: Mapping[str, Sequence[Sequence[float]]], xlabel: str, ylabel: str
) -> None:
    """One line per label over the settings ``x``, evenly spaced; ``lines[label][i]`` are the seeds' values at x[i].

    Points are means, bars their 95 % intervals, small dots the seeds.
    """
    for index, (label, values) in enumerate(lines.items()):
        # Side by side, or bars of equal height would hide each other.
        places = np.arange(len(x)) + 0.08 * (index - (len(lines) - 1) / 2)
        filled = [(place, estimate_mean(seeds)) for place, seeds in zip(places, values, strict=True) if len(seeds)]
        if not filled:
            continue
        colour, style = _look(index)
        means = [one.value for _, one in filled]
        bars = np.array([(max(one.value - one.low, 0), max(one.high - one.value, 0)) for _, one in filled]).T
        look: dict[str, Any] = {"color": colour, "linestyle": style, "marker": MARKERS[index % len(MARKERS)]}
        axis.errorbar([place for place, _ in filled], means, bars, label=label, capsize=3, markersize=5, **look)
        for place, one in filled:
            axis.plot(np.full(len(one.points), place), one.points, ".", color=colour, alpha=0.35, markersize=4)
    _finish(axis, xlabel, ylabel)
    axis.set_xticks(range(len(x)), [f"{value:g}" for value in x])


def svg(draw: Panel, width: float = 4.9, height: float = 3.0) -> str:
    """Markup of a chart of so many inches, to stand inside a page; empty text if it shows nothing."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        axis = figure.subplots()
        draw(axis)
        if not axis.has_data():
            return ""
        file = io.StringIO()
        figure.savefig(file, format="svg", bbox_inches="tight", transparent=True, metadata=METADATA)
    name = html.escape(" over ".join(filter(None, (axis.get_ylabel(), axis.get_xlabel()))))
    _, _, rest = file.getvalue().partition("<svg ")
    markup = f'<svg role="img" aria-label="{name}" {rest}'
    # Groups need no id: only what is referred to keeps one.
    ids = re.compile(rf"""<g id=(["'])({TOOLTIP})?(.*?)\1>""")
    return ids.sub(lambda found: f"<g><title>{found[3]}</title>" if found[2] else "<g>", markup)


def number_charts(page: str) -> str:
    """``page`` with the number of its chart in every id and every reference to one, so that charts do not mix."""
    pieces = re.split(r"(?=<svg )", page)
    places = re.compile(r'(<[^<>]* (?:id="|xlink:href="#)|<[^<>]*url\(#)')
    return pieces[0] + "".join(places.sub(rf"\g<1>c{n}-", piece) for n, piece in enumerate(pieces[1:]))


def save_panels(path: Path, title: str, panels: Sequence[Panel], width: float = 10.0, height: float = 3.9) -> None:
    """Draw each panel on axes of its own, side by side, and write the figure as PNG, about as wide as a README."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            panel(axis)
        figure.suptitle(title)
        figure.savefig(path, dpi=110)


def _look(index: int) -> tuple[str, str]:
    """Colour and line style of the curve at this place: the first 32 differ, neighbours in both."""
    return COLOURS[index % len(COLOURS)], LINE_STYLES[(index + index // len(COLOURS)) % len(LINE_STYLES)]


def _finish(axis: Axes, xlabel: str, ylabel: str) -> None:
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.xaxis.set_major_formatter(FuncFormatter(_number))
    axis.yaxis.set_major_formatter(FuncFormatter(_number))
    _, labels = axis.get_legend_handles_labels()
    if len(labels) > 1:
        columns = 2 if max(map(len, labels)) <= 30 else 1
        axis.legend(loc="upper left", bbox_to_anchor=(0, -0.16), frameon=False, ncols=columns)


def _number(value: float, _: object = None) -> str:
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{round(value / unit, 6):g}{suffix}"
    return f"{round(value, 6):g}"
