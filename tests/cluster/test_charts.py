"""Statistics over seeds against values worked out by hand, binning, and what the panels contain."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from cluster.commands.report.charts import (
    COLOURS,
    MINUTES,
    draw_curves,
    draw_intervals,
    draw_shares,
    draw_sweep,
    number_charts,
    save_panels,
    svg,
)
from cluster.commands.report.statistics import (
    Estimate,
    bootstrap_interval,
    final_value,
    interquartile_mean,
    on_common_grid,
    thin,
)
from cluster.telemetry.metrics import MetricSeries


def series(frames: list[float], values: list[float]) -> MetricSeries:
    """Logged at one minute per 100 frames."""
    return MetricSeries(np.array(frames, np.int64), np.array(frames) / 100, np.array(values, np.float64))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7.0),
        ([3.0, 0.0, 9.0], 4.0),
        # One of four and of five falls at each side, two of eight.
        ([100.0, 2.0, 4.0, -50.0], 3.0),
        ([100.0, 1.0, 3.0, 2.0, -100.0], 2.0),
        ([0, 0, 1, 2, 3, 4, 90, 100], 2.5),
    ],
)
def test_interquartile_mean_leaves_out_a_quarter_at_each_side(values: list[float], expected: float) -> None:
    assert interquartile_mean(np.array(values)) == pytest.approx(expected)
    columns = interquartile_mean(np.array([values, [2 * value for value in values]]).T)
    assert columns == pytest.approx([expected, 2 * expected])


def test_the_bootstrap_interval_of_a_coin_is_that_of_the_binomial() -> None:
    """Of (0, 0, 0, 4), a resample's mean is the number of fours, Binomial(4, 1/4): P(>= 2) = 67/256 = 0.26,
    P(>= 3) = 13/256 = 0.051, P(4) = 1/256 = 0.004; P(0) = 81/256."""
    values = np.array([0.0, 0.0, 0.0, 4.0])
    assert bootstrap_interval(values) == (0.0, 3.0)
    assert bootstrap_interval(values, confidence=0.8) == (0.0, 2.0)
    # The median of four is 4 if three of them are, 2 if two are, and else 0.
    assert bootstrap_interval(values, np.median) == (0.0, 4.0)


def test_the_bootstrap_treats_columns_apart_and_one_seed_has_no_width() -> None:
    low, high = bootstrap_interval(np.array([[0.0, 5.0], [0.0, 5.0], [0.0, 5.0], [4.0, 5.0]]))
    assert (low.tolist(), high.tolist()) == ([0.0, 5.0], [3.0, 5.0])
    assert bootstrap_interval(np.array([1.25])) == (1.25, 1.25)


def test_the_final_value_is_the_mean_of_the_last_fifth() -> None:
    assert final_value(series(list(range(10)), [0, 0, 0, 0, 0, 0, 0, 9, 1, 3])) == 2
    # A fifth of 11 is rounded up to 3.
    assert final_value(series(list(range(11)), [0, 0, 0, 0, 0, 0, 0, 9, 5, 1, 3])) == 3
    assert final_value(series([5], [4.0])) == 4
    assert final_value(series([5, 6, 7], [4.0, 1.0, math.nan])) == 1
    assert math.isnan(final_value(series([5], [math.nan])))


def test_thinning_averages_equal_ranges_of_frames() -> None:
    # Three ranges of 0..90: [0, 30), [30, 60) and [60, 90].
    thinned = thin(series([0, 10, 20, 60, 90], [1, 2, 6, 10, 20]), 3)
    assert thinned.env_frames.tolist() == [10, 75]
    assert thinned.values.tolist() == [3, 15]
    assert thinned.minutes == pytest.approx([0.1, 0.75])
    assert thin(series([0, 29, 30, 90], [1, 3, 7, 9]), 3).values.tolist() == [2, 7, 9]


def test_a_short_series_is_left_alone_and_gaps_are_dropped() -> None:
    short = thin(series([0, 10, 20], [1, math.nan, 3]), 2)
    assert (short.env_frames.tolist(), short.values.tolist()) == ([0, 20], [1, 3])
    assert len(thin(series([], []), 5).values) == 0
    assert len(thin(series(list(range(1000)), [0.0] * 1000), 60).values) == 60
    assert thin(series([5, 5, 5], [1, 2, 6]), 2).values.tolist() == [3]


def test_the_common_grid_covers_what_all_runs_have() -> None:
    grid, values = on_common_grid([series([0, 100], [0, 10]), series([50, 150], [1, 2])], points=3)
    assert grid.tolist() == [50, 75, 100]
    assert values == pytest.approx(np.array([[5, 7.5, 10], [1, 1.25, 1.5]]))
    grid, values = on_common_grid([series([0, 10], [0, 1]), series([20, 30], [0, 1])])
    assert grid.size == values.size == 0
    assert on_common_grid([])[0].size == 0


@pytest.fixture
def axis() -> Axes:
    return Figure().subplots()


def test_a_curve_is_the_mean_of_its_runs_inside_its_interval(axis: Axes) -> None:
    frames = [1_000, 3_000]
    curves = {"a": [series(frames, [0, 4]), series(frames, [2, 8])], "b": [], "c": [series(frames, [1, 1])]}
    draw_curves(axis, curves, "return")
    a, one, other, c = axis.lines
    assert (a.get_label(), c.get_label()) == ("a", "c")
    assert a.get_xdata()[[0, -1]] == pytest.approx([1_000, 3_000])
    assert a.get_ydata()[[0, -1]] == pytest.approx([1, 6])
    assert [line.get_ydata().tolist() for line in (one, other)] == [[0, 4], [2, 8]]
    # Both seeds' values happen to be the interval of their mean: 1/4 of the resamples hold one seed twice.
    shade = axis.collections[0].get_paths()[0].vertices
    assert (shade[:, 1].min(), shade[:, 1].max()) == pytest.approx((0, 8))


def test_curves_against_time(axis: Axes) -> None:
    draw_curves(axis, {"a": [series([100, 200, 300], [1, 2, 3])]}, "return", MINUTES)
    assert axis.lines[0].get_xdata()[[0, -1]] == pytest.approx([1, 3])
    assert axis.get_xlabel() == "minutes"


def test_references_are_drawn_unless_they_would_flatten_the_curves(axis: Axes) -> None:
    draw_curves(axis, {"a": [series([0, 100], [1, 3])]}, "return", references=[(5.0, "human"), (5_000.0, "far")])
    assert [text.get_text() for text in axis.texts] == ["human"]
    assert axis.lines[1].get_ydata() == [5.0, 5.0]
    nothing = Figure().subplots()
    draw_curves(nothing, {"a": []}, "return", references=[(5.0, "human")])
    assert not nothing.has_data()


def test_neighbouring_curves_differ_in_colour_and_style(axis: Axes) -> None:
    draw_curves(axis, {str(n): [series([0, 9], [n, n])] for n in range(32)}, "return")
    looks = [(line.get_color(), line.get_linestyle()) for line in axis.lines]
    assert len(set(looks)) == 32
    assert len({colour for colour, _ in looks}) == len(COLOURS)


def test_axes_count_in_round_numbers(axis: Axes) -> None:
    draw_curves(axis, {"a": [series([0, 5_200], [-2e6, 1e6])]}, "return")
    axis.figure.draw_without_rendering()
    shown = {label.get_text() for label in (*axis.get_xticklabels(), *axis.get_yticklabels())}
    assert {"0", "2k", "4k", "-2M", "-0.5M", "1M"} <= {text.replace("-500k", "-0.5M") for text in shown}


def test_a_sweep_shows_means_and_leaves_out_what_has_no_runs(axis: Axes) -> None:
    draw_sweep(axis, [0, 0.5, 3], {"one": [[1.0, 3.0], [], [5.0]]}, "beta_max", "return")
    assert axis.lines[0].get_ydata().tolist() == [2, 5]
    assert axis.lines[0].get_xdata().tolist() == [0, 2]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "0.5", "3"]


def test_shares_are_stacked_means_over_runs(axis: Axes) -> None:
    arms = {
        "first": [series([0, 10], [0.2, 0.2]), series([0, 10], [0.4, 0.4])],
        "second": [series([0, 10], [0.8, 0.8]), series([0, 10], [0.6, 0.6])],
        "never": [],
    }
    draw_shares(axis, arms, "share")
    lower, upper = (area.get_paths()[0].vertices[:, 1] for area in axis.collections)
    assert (lower.min(), lower.max()) == pytest.approx((0, 0.3))
    assert (upper.min(), upper.max()) == pytest.approx((0.3, 1.0))


def test_intervals_have_a_row_each(axis: Axes) -> None:
    draw_intervals(axis, {"first": Estimate(1, 0.5, 2, [0.5, 2.0]), "second": Estimate(3, 3, 3)}, "score")
    assert [label.get_text() for label in axis.get_yticklabels()] == ["first", "second"]
    assert [list(line.get_xdata()) for line in axis.lines] == [[0.5, 2], [0.5], [2.0], [1], [3, 3], [3]]


def test_markup_is_escaped_says_itself_and_is_the_same_each_time() -> None:
    def draw(axis: Axes) -> None:
        draw_curves(axis, {'a <b> & "c" $x$': [series([0, 9], [1, 2])], "z": []}, "<return>")

    markup = svg(draw)
    assert markup == svg(draw)
    assert markup.startswith('<svg role="img" aria-label="&lt;return&gt; over environment frames"')
    assert '<title>a &lt;b&gt; &amp; "c" $x$</title>' in markup.replace("&quot;", '"')
    assert "<b>" not in markup
    assert ">&lt;return&gt;</text>" in markup
    assert "<metadata" not in markup
    assert svg(lambda axis: draw_curves(axis, {"a": []}, "y")) == ""


def test_charts_of_one_page_do_not_share_ids() -> None:
    chart = svg(lambda axis: draw_curves(axis, {"a": [series([0, 9], [1, 2])]}, "y"))
    page = number_charts(f'<p id="mine">{chart}{chart}')
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(set(ids)) == len(ids) > 3
    assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', page)) == set(ids) - {"mine"}


def test_panels_are_saved_at_the_width_of_a_readme(tmp_path: Path) -> None:
    save_panels(tmp_path / "figure.png", "title", [lambda axis: draw_curves(axis, {}, "y")] * 2)
    width, height = Image.open(tmp_path / "figure.png").size
    assert 800 <= width <= 1200
    assert height < width
