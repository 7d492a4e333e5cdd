"""Settings that must be in place before Ray or torch are imported by a test."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "disabled"


def pytest_xdist_auto_num_workers() -> int:
    """With ``-n auto``: a process for each core that this one may use, eight at most."""
    return min(8, len(os.sched_getaffinity(0)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start Ray take several cores: with ``-n`` those of a module run one after the other."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
