"""The three kinds of panel that the experiments of this folder draw; their statistics are those of the report.

Called by the experiments, and by `experiment.py` and `record.py` for the statistics. Needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from cluster.commands.report.statistics import (  # noqa: F401  (the experiments take them from here)
    GRID_POINTS,
    bootstrap_interval,
    final_value,
    interquartile_mean,
    on_common_grid,
    thin,
)
from cluster.telemetry.metrics import MetricSeries

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart by the colour-blind too; grey stands for its yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888")
LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vP*X"
MAX_CURVES = len(COLOURS)
"""More curves than this in one panel cannot be told apart."""
THOUSAND = 1e3

Panel = Callable[[Axes], None]


# Panels


def draw_curves(axis: Axes, curves: Mapping[str, Sequence[MetricSeries]], ylabel: str) -> None:
    """One line per label: the mean over its runs, with the 95 % interval of the mean shaded; labels without runs
    are left out. ValueError beyond `MAX_CURVES`."""
    _refuse_crowd(curves)
    for index, (label, runs) in enumerate(curves.items()):
        grid, values = on_common_grid(runs)
        if not grid.size:
            continue
        style: dict[str, Any] = {"color": COLOURS[index], "linestyle": LINE_STYLES[index % len(LINE_STYLES)]}
        axis.plot(grid / THOUSAND, values.mean(0), label=label, linewidth=1.8, **style)
        low, high = bootstrap_interval(values, resamples=2_000)
        axis.fill_between(grid / THOUSAND, low, high, color=COLOURS[index], alpha=0.18, linewidth=0)
    _finish(axis, "environment frames (thousands)", ylabel)


def draw_against_minutes(axis: Axes, curves: Mapping[str, Sequence[MetricSeries]], ylabel: str) -> None:
    """As `draw_curves`, against wall-clock minutes."""
    by_minutes = {
        label: [series._replace(env_frames=series.minutes * THOUSAND) for series in runs]
        for label, runs in curves.items()
    }
    draw_curves(axis, by_minutes, ylabel)
    axis.set_xlabel("minutes", fontsize=10)


def draw_sweep(
    axis: Axes, x: Sequence[float], lines: Mapping[str, Sequence[Sequence[float]]], xlabel: str, ylabel: str
) -> None:
    """One line per label over the settings ``x``, evenly spaced; ``lines[label][i]`` are the seeds' values at x[i].

    Points are means, bars their 95 % intervals, small dots the seeds. ValueError beyond `MAX_CURVES`.
    """
    _refuse_crowd(lines)
    for index, (label, values) in enumerate(lines.items()):
        # Side by side, or bars of equal height would hide each other.
        places = np.arange(len(x)) + 0.08 * (index - (len(lines) - 1) / 2)
        filled = [(place, np.asarray(seeds)) for place, seeds in zip(places, values, strict=True) if len(seeds)]
        if not filled:
            continue
        means = np.array([seeds.mean() for _, seeds in filled])
        bounds = np.array([bootstrap_interval(seeds) for _, seeds in filled]).T
        style: dict[str, Any] = {
            "color": COLOURS[index],
            "marker": MARKERS[index],
            "linestyle": LINE_STYLES[index % len(LINE_STYLES)],
        }
        errors = np.maximum(np.abs(bounds - means), 0)
        axis.errorbar([p for p, _ in filled], means, errors, label=label, capsize=3, markersize=5, **style)
        for place, seeds in filled:
            axis.plot(np.full(len(seeds), place), seeds, ".", color=COLOURS[index], alpha=0.35, markersize=4)
    axis.set_xticks(range(len(x)), [f"{value:g}" for value in x])
    _finish(axis, xlabel, ylabel)


def draw_shares(axis: Axes, arms: Mapping[str, Sequence[MetricSeries]], ylabel: str) -> None:
    """Stacked areas, the first arm at the bottom: each the mean over its runs; arms without runs are left out."""
    runs = [series for of_arm in arms.values() for series in of_arm]
    grid, _ = on_common_grid(runs)
    if not grid.size:
        return
    shares = {
        label: np.mean([np.interp(grid, run.env_frames, run.values) for run in of_arm], axis=0)
        for label, of_arm in ((label, [thin(run, GRID_POINTS) for run in runs]) for label, runs in arms.items())
        if of_arm
    }
    # Arms are ordered, so their colours are too: from exploitative to exploratory.
    colours = plt.get_cmap("viridis")(np.linspace(0.05, 0.95, len(shares)))
    axis.stackplot(grid / THOUSAND, list(shares.values()), labels=list(shares), colors=colours, linewidth=0)
    axis.set_ylim(0, 1)
    axis.margins(x=0)
    _finish(axis, "environment frames (thousands)", ylabel)
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(handles[::-1], labels[::-1], fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def save_panels(path: Path, title: str, panels: Sequence[Panel], width: float = 10.0, height: float = 3.9) -> None:
    """Draw each panel on axes of its own, side by side, and write the figure as PNG, about as wide as a README."""
    figure, axes = plt.subplots(1, len(panels), figsize=(width, height), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        panel(axis)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _refuse_crowd(curves: Mapping[str, Any]) -> None:
    if len(curves) > MAX_CURVES:
        raise ValueError(f"{len(curves)} curves in one panel: at most {MAX_CURVES} can be told apart")


def _finish(axis: Axes, xlabel: str, ylabel: str) -> None:
    axis.set_xlabel(xlabel, fontsize=10)
    axis.set_ylabel(ylabel, fontsize=10)
    axis.tick_params(labelsize=9)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, framealpha=0.85)
