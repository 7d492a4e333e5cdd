"""The whole system in one process: it trains, stops, resumes bit for bit, and keeps its books."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.commands.train import train
from cluster.run.checkpoint import Checkpoints, load_tree
from cluster.run.config import load_config
from cluster.run.presets import MEME
from cluster.runtime.services import RolloutService
from cluster.telemetry.metrics import read_metrics
from tests.cluster.tiny import tiny_config


def run(run_dir: Path, frames: int, resume: bool = False, **changes: object) -> None:
    config = tiny_config(run_dir=str(run_dir), max_env_frames=frames, **changes)
    assert train(config, "smoke", run_dir if resume else None) == 0


def learner_state(run_dir: Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint's learner, flattened by name."""
    return flatten(load_tree(newest(run_dir), "learner"))


def newest(run_dir: Path) -> Path:
    return Checkpoints(run_dir, 9).latest_or_error(pytest.fail)


def flatten(tree: object, name: str = "") -> dict[str, np.ndarray]:
    if isinstance(tree, dict):
        return {k: v for key, child in tree.items() for k, v in flatten(child, f"{name}/{key}").items()}
    if isinstance(tree, list | tuple):
        return {k: v for key, child in enumerate(tree) for k, v in flatten(child, f"{name}/{key}").items()}
    return {name: np.asarray(tree)}


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    different = [name for name in left if not np.array_equal(left[name], right[name])]
    assert not different, f"{len(different)} of {len(left)} differ, the first is {different[0]}"


@pytest.mark.parametrize("kind", ["separate", "shared", "recode"])
def test_resume_continues_bit_for_bit(kind: str, tmp_path: Path) -> None:
    """checkpoint -> stop -> resume ends in exactly the state of a run that made the checkpoint and went on."""
    tiny = tiny_config()
    changes: dict[str, Any] = {"checkpoint": dataclasses.replace(tiny.checkpoint, period_minutes=1e-9, keep=100)}
    if kind == "shared":
        # MEME's parts, as its preset has them.
        loss = dataclasses.replace(MEME.loss, trust_region=0.1)
        network = dataclasses.replace(tiny.network, kind="shared", policy_head=True)
        replay = dataclasses.replace(tiny.replay, importance_exponent=0.4)
        learner = dataclasses.replace(tiny.learner, optimizer="adamw")
        changes |= {"loss": loss, "network": network, "replay": replay, "learner": learner}
    elif kind == "recode":
        # A memory that is full when it is saved.
        changes["intrinsic"] = dataclasses.replace(tiny.intrinsic, novelty="recode", atoms=3, atom_insertion=1.0)
    run(tmp_path / "whole", 3000, **changes)
    run(tmp_path / "parts", 1600, **changes)
    run(tmp_path / "parts", 3000, **changes, resume=True)
    assert newest(tmp_path / "whole").name == newest(tmp_path / "parts").name
    for name in ("learner", "serial", "supervisor"):
        states = [flatten(load_tree(newest(tmp_path / part), name)) for part in ("whole", "parts")]
        assert_same(*states)
    blobs = [(newest(tmp_path / part) / "replay-0.blobs").read_bytes() for part in ("whole", "parts")]
    assert blobs[0] == blobs[1]
    assert learner_state(tmp_path / "whole")["/updates"] > 50


def test_a_seed_determines_the_run_and_another_seed_another_run(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        run(tmp_path / name, 1200, seed=seed)
    a, b, c = (learner_state(tmp_path / name) for name in "abc")
    assert_same(a, b)
    weights = [name for name in a if name.endswith("lstm.weight_hh_l0")]
    assert weights
    assert not any(np.array_equal(a[name], c[name]) for name in weights)


def test_the_log_tells_the_story(tmp_path: Path) -> None:
    run(tmp_path / "run", 4000)
    metrics = read_metrics(tmp_path / "run")
    expected = [
        "evaluation/return",
        "return/all",
        "return_per_epsilon/high",
        "return_per_arm/00",
        "bandit_share/00",
        "intrinsic/reward",
        "intrinsic/episodic",
        "intrinsic/alpha",
        "intrinsic/rnd_error",
        "learner/rnd_error",
        "learner/embedding_loss",
        "learner/embedding_accuracy",
        "learner/extrinsic_loss",
        "learner/intrinsic_loss",
        "learner/extrinsic_mean_q",
        "learner/intrinsic_grad_norm",
        "learner/trace_coefficient",
        "replay/steps",
        "replay/bytes",
        "replay/priority_mean",
        "replay/ratio",
        "replay/sampled_age",
        "actor/policy_lag_updates",
        "rate/env_frames_per_second",
        "rate/updates_per_second",
        "health/restarts",
    ]
    assert [tag for tag in expected if tag not in metrics] == []
    ratio = metrics["replay/ratio"].values[-1]
    assert ratio == pytest.approx(tiny_config().replay.replay_ratio, rel=0.35)
    frames = metrics["rate/learner_updates"].env_frames
    assert np.all(np.diff(frames) >= 0)
    assert frames[-1] >= 4000


def test_the_run_folder_holds_config_and_versions(tmp_path: Path) -> None:
    run(tmp_path / "run", 200)
    config = load_config(tmp_path / "run" / "config.json")
    assert config == tiny_config(run_dir=str(tmp_path / "run"), max_env_frames=200)
    assert (tmp_path / "run" / "versions.json").exists()


def test_counters_and_axes_continue_over_a_resume(tmp_path: Path) -> None:
    run(tmp_path / "run", 1000)
    before = load_tree(newest(tmp_path / "run"), "supervisor")
    run(tmp_path / "run", 2000, resume=True)
    after = load_tree(newest(tmp_path / "run"), "supervisor")
    assert after["env_steps"] >= 2000 > before["env_steps"] >= 1000
    assert after["learner_updates"] > before["learner_updates"] > 0
    pulls = [sum(len(b["arms"]) for b in state["meta_controller"]["bandits"]) for state in (before, after)]
    assert pulls[1] > pulls[0] > 0


def test_a_resume_that_is_not_exact_begins_a_new_life_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = []

    class Recorded(RolloutService):
        def __init__(self, *arguments: Any, life: int, **more: Any) -> None:
            super().__init__(*arguments, life=life, **more)
            lives.append((life, self.worker.lanes.environments.state_dict()["history"]["seed"]))

    monkeypatch.setattr("cluster.runtime.serial_fleet.RolloutService", Recorded)
    # As Ray's checkpoints are: without the state of the worker.
    monkeypatch.setattr("cluster.runtime.serial_fleet.save_tree", lambda directory, name, tree: {})
    for frames in (200, 300, 400):
        run(tmp_path / "run", frames, resume=frames > 200)
    assert [life for life, _ in lives] == [0, 0, 1, 0, 2]
    assert len({seed for _, seed in lives}) == 3
