"""The table of sizes in docs/cluster.md is what `python -m benchmarks.sizing` computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.sizing import SEQUENCE_BYTES, size, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cluster.md"
BEGIN, END = "<!-- sizes: begin -->\n", "<!-- sizes: end -->"


def test_the_page_shows_what_is_computed() -> None:
    written = PAGE.read_text().split(BEGIN)[1].split(END)[0]
    assert written == table([size(lanes) for lanes in (1, 32, 512)]), (
        "replace the table of docs/cluster.md by what 'python -m benchmarks.sizing' prints"
    )


def test_rates_follow_from_what_was_measured() -> None:
    few, many = size(32), size(512)
    assert many.steps_per_second == 16 * few.steps_per_second
    # 0.8 trained transitions per step, 64 x 160 of them per update; a sequence of 160 steps every 80.
    assert many.updates_per_second == pytest.approx(0.8 * many.steps_per_second / (64 * 160))
    assert many.replay_mb_per_second == pytest.approx(many.steps_per_second / 80 * SEQUENCE_BYTES / 1e6)
    assert many.batch_mb_per_second == pytest.approx(many.updates_per_second * 64 * SEQUENCE_BYTES / 1e6)
    assert many.topology.placement.placed_workers == 32
    assert many.worker_nodes == 2
    assert few.worker_nodes == 0
