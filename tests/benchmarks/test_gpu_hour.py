"""The program for the first hour on a GPU, at toy sizes on the CPU: it must not rot while no GPU is at hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu_hour import AGENTS, TOY, GpuHour, lstm_flops
from benchmarks.measure import Figure
from benchmarks.recorded_pong import recorded_batch, spec_of

ROOT = Path(__file__).parents[2]
NOT_THERE = ("ray", "gymnasium", "ale_py", "zstandard", "minigrid", "tyro", "rich", "matplotlib", "safetensors", "av")
"""Packages of which a borrowed machine with a GPU may have none."""


def test_every_part_runs_with_torch_and_numpy_alone(tmp_path: Path) -> None:
    program = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {NOT_THERE}:
            raise ImportError(name)
sys.meta_path.insert(0, Missing())
sys.argv = ["gpu_hour", "--toy", "--device", "cpu", "--out", {str(tmp_path)!r}]
from benchmarks.gpu_hour import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = [Figure(**row) for row in json.loads((tmp_path / "rows.json").read_text())["figures"]]
    assert all(figure.value is not None for figure in figures), [figure.where for figure in figures]
    for name in AGENTS:
        assert sum(f"learner {name}," in figure.name for figure in figures) >= 4
        equal = [figure for figure in figures if "beside the CPU's" in figure.name and name in figure.name]
        assert [figure.met for figure in equal] == [True, True]
    assert "self" in (tmp_path / "profile.txt").read_text().lower()


def test_a_part_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: GpuHour) -> list[Figure]:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(GpuHour, "acting", broken)
    monkeypatch.setattr(sys, "argv", ["gpu_hour", "--toy", "--only", "peaks", "acting", "--out", str(tmp_path)])
    from benchmarks.gpu_hour import main

    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    figures = json.loads((tmp_path / "rows.json").read_text())["figures"]
    assert figures[0]["value"] > 0
    assert figures[-1]["where"] == "failed: RuntimeError: out of memory"


def test_the_recording_is_real_play_and_fills_any_batch() -> None:
    agent = AGENTS["paper"]
    batch = recorded_batch(spec_of(agent, 160), 10, 32)
    assert batch.observations.shape == (161, 10, 1, 84, 84)
    assert batch.mask.all()
    # The ball moves, points are lost, and the previous action is that of the step before.
    assert (batch.observations[1:] != batch.observations[:-1]).any(axis=(2, 3, 4)).mean() > 0.9
    assert batch.extrinsic_rewards.min() == -1
    np.testing.assert_array_equal(batch.previous_actions[1:], batch.actions[:-1])
    np.testing.assert_array_equal(batch.observations[:, 0], batch.observations[:, 8])
    large = recorded_batch(spec_of(agent, 20, (210, 160)), 2, 32)
    assert large.observations.shape == (21, 2, 1, 210, 160)


def test_operations_of_the_lstms_are_counted() -> None:
    """Of each step: 4 H (I + H) products and as many sums; forward, twice as much backward, and the target's."""
    hour = GpuHour("cpu", TOY)
    agent = hour.agent("meme")
    learner = hour.learner(agent)
    spec = spec_of(agent, TOY.length)
    batch = recorded_batch(spec, TOY.batch, agent.family.num_policies)
    inputs = 16 + 18 + 2
    assert lstm_flops(learner, batch) == 4 * (7 * 2) * 2 * 4 * 16 * (inputs + 16)
