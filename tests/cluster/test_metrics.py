"""Metrics: one x-axis over a resume, and what the console shows."""

from __future__ import annotations

import html
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tensorboard import plugin_util
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster.telemetry import console as console_module
from cluster.telemetry.console import StatusFields, StatusLine, format_count, format_duration, print_plan
from cluster.telemetry.mean_accumulator import MeanAccumulator
from cluster.telemetry.metrics import METRICS_FILE, MetricLog, plain, read_metrics


def events(run_dir: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run_dir), size_guidance={"scalars": 0, "histograms": 0})
    accumulator.Reload()
    return accumulator


def scalar_points(run_dir: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(run_dir).Scalars(tag)]


def test_what_is_written_is_read_back_from_both_files(tmp_path: Path) -> None:
    log = MetricLog(tmp_path, purge_from=None)
    log.scalars({"return/greedy": 1.5}, 100)
    log.scalars({"return/greedy": 2.5, "loss": 0.25}, 200)
    log.scalars({}, 300)
    log.histogram("alpha", [1.0, 2.0, math.nan], 200)
    log.text("config", "a **b**", 0)
    log.close()
    assert scalar_points(tmp_path, "return/greedy") == [(100, 1.5), (200, 2.5)]
    assert events(tmp_path).Histograms("alpha")[0].histogram_value.num == 2
    assert "config/text_summary" in events(tmp_path).Tags()["tensors"]
    metrics = read_metrics(tmp_path)
    assert list(metrics) == ["return/greedy", "loss"]
    np.testing.assert_array_equal(metrics["return/greedy"].env_frames, [100, 200])
    np.testing.assert_array_equal(metrics["return/greedy"].values, [1.5, 2.5])
    assert (metrics["return/greedy"].minutes >= 0).all()
    assert len((tmp_path / METRICS_FILE).read_text().splitlines()) == 2
    assert log.nonfinite == {"alpha": 1}


def test_resuming_hides_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    first = MetricLog(tmp_path, purge_from=None)
    for env_frames in (100, 200, 300, 400):
        first.scalars({"loss": env_frames}, env_frames)
    first.close()
    second = MetricLog(tmp_path, purge_from=200)
    second.scalars({"loss": -250.0}, 250)
    second.close()
    assert scalar_points(tmp_path, "loss") == [(100, 100.0), (200, 200.0), (250, -250.0)]
    np.testing.assert_array_equal(read_metrics(tmp_path)["loss"].env_frames, [100, 200, 250])
    assert not list(tmp_path.glob("*.tmp"))


def test_minutes_continue_where_the_checkpoint_was(tmp_path: Path) -> None:
    rows = '{"env_frames": 100, "minutes": 7.0, "loss": 1.0}\n{"env_frames": 300, "minutes": 90.0, "loss": 1.0}\n'
    (tmp_path / METRICS_FILE).write_text(rows)
    log = MetricLog(tmp_path, purge_from=200)
    log.scalars({"loss": 2.0}, 250)
    log.close()
    first, second = read_metrics(tmp_path)["loss"].minutes
    assert first == 7.0
    assert 7.0 <= second < 8.0


def test_a_line_torn_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    log = MetricLog(tmp_path, purge_from=None)
    log.scalars({"loss": 1.0}, 100)
    log.close()
    with open(tmp_path / METRICS_FILE, "a") as file:
        file.write('{"env_frames": 200, "minu')
    resumed = MetricLog(tmp_path, purge_from=100)
    resumed.scalars({"loss": 2.0}, 200)
    resumed.close()
    np.testing.assert_array_equal(read_metrics(tmp_path)["loss"].values, [1.0, 2.0])


def test_values_that_are_not_finite_are_written_and_counted(tmp_path: Path) -> None:
    log = MetricLog(tmp_path, purge_from=None)
    log.scalars({"loss": math.nan, "q": math.inf, "ratio": 1.0}, 100)
    log.histogram("all bad", [math.nan], 100)
    log.close()
    assert log.nonfinite == {"loss": 1, "q": 1, "all bad": 1}
    metrics = read_metrics(tmp_path)
    assert math.isnan(metrics["loss"].values[0])
    assert metrics["q"].values[0] == math.inf
    assert math.isnan(scalar_points(tmp_path, "loss")[0][1])


def test_mean_accumulator_weighs_and_begins_anew() -> None:
    means = MeanAccumulator()
    means.add("loss", 1.0, weight=3)
    means.add("loss", 5.0)
    means.add("empty", math.nan, weight=0)
    assert means.drain() == {"loss": 2.0}
    assert means.drain() == {}


FIELDS = StatusFields(
    elapsed_seconds=754,
    env_frames=1_254_000,
    env_frames_wanted=20_000_000,
    seconds_wanted=None,
    env_frames_per_second=4210,
    learner_updates=12_345,
    updates_per_second=5.23,
    replay_steps=512_000,
    replay_bytes=1_234_567_890,
    replay_limit_bytes=4 * 10**9,
    replay_ratio=0.79,
    replay_ratio_wanted=0.8,
    score=None,
    training_return=123_456.7,
    arm=3,
    arm_beta=0.0034,
    arm_gamma=0.99712,
    restarts=2,
)
SHOWN = [
    "0:12:34", "6.3%", "1:14:12 left", "1.25M (4.21k/s)", "12.3k (5.2/s)", "512k (1.23/4.00GB)", "0.79 / 0.80",
    "123,456.7", ".003, 0.9971",
]  # fmt: skip


def test_piped_status_is_plain_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    # FORCE_COLOR must not turn a log file into a terminal.
    monkeypatch.setenv("FORCE_COLOR", "1")
    clock = [0.0]
    monkeypatch.setattr(console_module.time, "monotonic", lambda: clock[0])
    output = io.StringIO()
    with StatusLine(Console(file=output)) as status:
        for second in range(25):
            clock[0] = second
            assert status.due == (second % 10 == 0)
            status.update(replace(FIELDS, elapsed_seconds=second))
        status.note("worker [3] died")
    lines = output.getvalue().splitlines()
    assert [line.split()[0] for line in lines if "died" not in line] == ["0:00:00", "0:00:10", "0:00:20", "0:00:24"]
    assert sum(line.endswith("worker [3] died") for line in lines) == 1
    assert output.getvalue().replace("\n", "").isprintable()
    for text in SHOWN[1:2] + SHOWN[3:]:
        assert text in lines[0]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_terminal_status_fits_and_shows_everything(width: int) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=width, color_system=None, _environ={})
    status = StatusLine(console, live=True)
    status.update(FIELDS)
    status.note("a checkpoint was written")
    drawn = output.getvalue()
    status.close()
    status.close()
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= width
    whole = " ".join(drawn.split()) if width < 80 else drawn
    for text in SHOWN:
        assert text in whole
    assert "…" not in drawn
    assert "a checkpoint was written" in drawn
    assert output.getvalue().count("\x1b[?25h") == 1  # the cursor is given back


def test_unknown_numbers_are_dashes() -> None:
    unknown = replace(
        FIELDS, replay_ratio=None, training_return=None, arm=None, arm_beta=None, arm_gamma=None, env_frames_wanted=None
    )
    text = console_module.status_text(unknown)
    assert "score -  replay ratio - / 0.80" in text
    assert "arm -  beta, gamma -, -" in text
    assert "left" not in text


def test_of_two_limits_the_nearer_one_tells_the_time_left() -> None:
    text = console_module.status_text(replace(FIELDS, seconds_wanted=1508))
    assert "0:12:34  50.0%  0:12:34 left" in text
    assert "6.3%  1:14:12 left" in console_module.status_text(replace(FIELDS, seconds_wanted=60_000))
    assert "left" not in console_module.status_text(replace(FIELDS, seconds_wanted=700))


def test_numbers_read_well() -> None:
    assert [format_count(n) for n in (0, 950, 999.7, 12_345, 999_600, 1_254_000, 999_960_000, 1e10)] == [
        "0", "950", "1.00k", "12.3k", "1.00M", "1.25M", "1.00G", "10.0G",
    ]  # fmt: skip
    assert [format_duration(s) for s in (0, 59.9, 3661, 90_061)] == ["0:00:00", "0:00:59", "1:01:01", "1d 1:01:01"]


@pytest.mark.parametrize("terminal", [True, False])
def test_plan_shows_every_row(terminal: bool) -> None:
    output = io.StringIO()
    rows = [("game", "Pong [v5]"), ("memory", "word " * 40)]
    print_plan(rows, Console(file=output, force_terminal=terminal, width=80, color_system=None))
    assert "Pong [v5]" in output.getvalue()
    assert output.getvalue().count("word") == 40
    if not terminal:
        assert len(output.getvalue().splitlines()) == 2


@pytest.mark.parametrize(
    "text", ["runs/lr[1e-4](b)", "a|b", "<class 'int'>", "__init__ *args* `x`", "C:\\dir", "&lt;", "# no\n- list"]
)
def test_plain_text_is_shown_as_it_is_in_tensorboard(text: str) -> None:
    shown = plugin_util.markdown_to_safe_html(f"| | |\n|---|---|\n| name | {plain(text)} |")
    (cell,) = re.findall(r"<td>(?!name)(.*?)</td>", shown, re.DOTALL)
    assert "<" not in cell
    assert html.unescape(cell) == " ".join(text.split())
