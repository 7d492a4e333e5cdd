"""What the supervisor's statistics become: tags of every kind, warnings once, scores apart from training."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from actors.rollout import Episode
from agent57.config import PolicyFamilyConfig
from cluster.run.messages import EvaluationReply, RolloutReply
from cluster.run.presets import LAPTOP, PAPER
from cluster.telemetry.arm_history import ArmHistory
from cluster.telemetry.health import PATIENCE, HealthWatch
from cluster.telemetry.metrics import read_metrics
from cluster.telemetry.snapshot import Snapshot
from cluster.telemetry.telemetry import Telemetry
from cluster.telemetry.tensorboard.layout import LAYOUT, custom_scalars, hyperparameters
from cluster.telemetry.tensorboard.pictures import animation, colours, heat_map, table_of_numbers
from tests.cluster.tiny import tiny_config


def rollout_reply(episodes: list[Episode], **changes: Any) -> RolloutReply:
    fields = {
        "env_steps": 100,
        "episodes": episodes,
        "metrics": {"intrinsic/reward": 0.5},
        "arms_left": [1],
        "weights_version": 1,
        "num_sequences": 1,
        "lost_sequences": 0,
        "replay_stats": None,
        "running_state": {},
        "resident_bytes": 1000,
        "intrinsic_rewards": np.array([0.25, 0.75], np.float32),
    }
    return RolloutReply(**(fields | changes))


def evaluation_reply(episodes: list[Episode], scored_arm: int, clip: np.ndarray | None = None) -> EvaluationReply:
    return EvaluationReply(episodes, True, scored_arm, {}, 1000, clip)


def episode(arm: int, value: float, epsilon: float = 0.01) -> Episode:
    return Episode(0, arm, epsilon, value, 1.0, 10)


PRIORITIES = np.array([1.0, 2.0])


def snapshot(num_policies: int) -> Snapshot:
    return Snapshot(
        env_frames=400,
        learner_updates=7,
        restarts=0,
        replay_ratio=1.0,
        arm_pulls=np.ones(num_policies),
        favourite_arm=0,
        refused_returns=0,
        resident_bytes={},
        temporary_folders=[],
    )


@pytest.fixture
def telemetry(tmp_path: Path) -> Telemetry:
    config = tiny_config(env="ALE/Pong-v5", family=PolicyFamilyConfig(num_policies=4))
    telemetry = Telemetry(config, None, tmp_path)
    telemetry._status._console = Console(file=io.StringIO())
    telemetry.open(None)
    return telemetry


def events(run_dir: Path) -> EventAccumulator:
    return EventAccumulator(str(run_dir), size_guidance={"images": 0, "histograms": 0, "tensors": 0}).Reload()


def said(telemetry: Telemetry) -> str:
    file = telemetry._status._console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_the_score_is_the_greedy_arms_and_no_training_return_enters(telemetry: Telemetry, tmp_path: Path) -> None:
    telemetry.rolled_out(0, rollout_reply([episode(1, 1000.0), episode(2, 500.0, epsilon=0.4)]))
    telemetry.begin_round(400)
    telemetry.evaluated(evaluation_reply([episode(1, 14.0), episode(3, 21.0), episode(1, 15.2)], 1))
    telemetry.close(snapshot(4), PRIORITIES)
    metrics = {tag: series.values.tolist() for tag, series in read_metrics(tmp_path).items()}
    assert metrics["evaluation/return"] == [pytest.approx(14.6)]
    # By hand, from the table's random -20.7 and human 14.6.
    assert metrics["evaluation/human_normalised"] == [pytest.approx(1.0)]
    assert metrics["evaluation/return_all_arms"] == [pytest.approx((14.0 + 21 + 15.2) / 3)]
    assert metrics["evaluation/return_episodes"] == [2]
    assert metrics["evaluation/return_stderr"] == [pytest.approx(0.6)]
    assert metrics["return/all"] == [750.0]
    assert metrics["return_per_epsilon/low"] == [1000.0]
    assert metrics["return_per_epsilon/high"] == [500.0]
    assert telemetry.score is not None
    assert telemetry.score.text() == "14.6 +- 0.6"


def test_a_score_is_dated_when_its_weights_were_taken(telemetry: Telemetry, tmp_path: Path) -> None:
    """Rounds last long; in the meantime training goes on and is logged."""
    telemetry.begin_round(100)
    telemetry.evaluated(dataclasses.replace(evaluation_reply([episode(1, 3.0)], 1), round_over=False))
    telemetry.close(snapshot(4), PRIORITIES)
    state = telemetry.state_dict()
    assert state["round_began"] == 100
    # Twice from the same checkpoint, at 400 frames: the round ends twice, and is one round.
    for _ in range(2):
        resumed = Telemetry(telemetry.config, None, tmp_path)
        resumed._status._console = Console(file=io.StringIO())
        resumed.load_state_dict(state)
        resumed.open(400, round_goes_on=True)
        began = resumed._round_began[1]
        resumed._log._began -= 300  # type: ignore[union-attr]
        resumed.evaluated(evaluation_reply([episode(1, 5.0)], 1))
        resumed.close(snapshot(4), PRIORITIES)
        series = read_metrics(tmp_path)["evaluation/return"]
        assert [column.tolist() for column in series] == [[100], [round(began, 4)], [4.0]]
    assert {(point.step, point.value) for point in events(tmp_path).Scalars("evaluation/return")} == {(100, 4.0)}


def test_a_single_episode_has_no_standard_error(telemetry: Telemetry, tmp_path: Path) -> None:
    telemetry.begin_round(100)
    telemetry.evaluated(evaluation_reply([episode(1, 3.0), episode(2, 4.0)], 1))
    telemetry.close(snapshot(4), PRIORITIES)
    assert "evaluation/return_stderr" not in read_metrics(tmp_path)
    assert telemetry.score is not None
    assert telemetry.score.text() == "3.0"


def test_capped_scores_lie_between_random_and_human(telemetry: Telemetry, tmp_path: Path) -> None:
    for frames, value in ((100, 21.0), (200, -21.0), (300, -3.05)):
        telemetry.begin_round(frames)
        telemetry.evaluated(evaluation_reply([episode(0, value)], 0))
    telemetry.close(snapshot(4), PRIORITIES)
    metrics = read_metrics(tmp_path)
    np.testing.assert_allclose(
        metrics["evaluation/human_normalised"].values, [41.7 / 35.3, -0.3 / 35.3, 0.5], atol=1e-12
    )
    np.testing.assert_allclose(metrics["evaluation/human_normalised_capped"].values, [1.0, 0.0, 0.5], atol=1e-12)


def test_pictures_texts_and_histograms_are_written(telemetry: Telemetry, tmp_path: Path) -> None:
    telemetry.rolled_out(0, rollout_reply([episode(1, 3.0), episode(2, 5.0, epsilon=0.4)]))
    clip = np.random.default_rng(0).integers(256, size=(5, 1, 84, 84), dtype=np.uint8)
    telemetry.begin_round(400)
    telemetry.evaluated(evaluation_reply([episode(0, 1.0)], 0, clip))
    telemetry.warn("all is not well", 400)
    telemetry.close(snapshot(4), PRIORITIES)
    written = events(tmp_path)
    tags = written.Tags()
    assert set(tags["images"]) == {"bandit/heat_map", "return_per_epsilon/by_policy", "evaluation/episode"}
    assert {"intrinsic/reward_samples", "replay/priorities", "bandit/arms"} <= set(tags["histograms"])
    assert written.Histograms("intrinsic/reward_samples")[0].histogram_value.num == 2
    assert "run/warnings/text_summary" in tags["tensors"]
    moving = Image.open(io.BytesIO(written.Images("evaluation/episode")[0].encoded_image_string))
    assert moving.format == "GIF"
    assert getattr(moving, "n_frames", 1) == 5
    layout = written.Tensors("custom_scalars__config__")[0]
    assert b"greedy evaluation" in layout.tensor_proto.string_val[0]
    assert any(path.read_bytes().count(b"session_start_info") for path in tmp_path.glob("events.*"))


def test_pictures_grow_rarer(telemetry: Telemetry, tmp_path: Path) -> None:
    """One for each twentieth that the run has grown: else a run of days would write gigabytes."""
    clip = np.zeros((2, 1, 84, 84), np.uint8)
    now = snapshot(4)
    for frames in (0, 1000, 1010, 1040, 1060, 1070):
        now = dataclasses.replace(now, env_frames=frames)
        telemetry.begin_round(frames)
        telemetry.evaluated(evaluation_reply([episode(0, 1.0)], 0, clip))
        telemetry._log_points = 0
        telemetry._write(now, lambda: PRIORITIES)
    telemetry.close(now, PRIORITIES)
    written = events(tmp_path)
    assert [event.step for event in written.Images("evaluation/episode")] == [0, 1000, 1060]
    # The last state of all is drawn when the run ends.
    assert [event.step for event in written.Images("bandit/heat_map")] == [0, 1000, 1060, 1070]


def test_warnings_are_told_once(telemetry: Telemetry, tmp_path: Path) -> None:
    now = snapshot(4)
    for _ in range(3):
        telemetry.rolled_out(0, rollout_reply([], lost_sequences=2))
        telemetry._write(now, lambda: PRIORITIES)
    assert said(telemetry).count("warning: ") == 1
    assert "sequences could not be delivered" in said(telemetry)
    telemetry.rolled_out(0, rollout_reply([], metrics={"intrinsic/reward": np.nan}))
    telemetry._write(now, lambda: PRIORITIES)
    telemetry._write(now, lambda: PRIORITIES)
    assert said(telemetry).count("warning: ") == 2
    assert telemetry.warnings == 2
    telemetry.close(now, PRIORITIES)


def test_what_may_pass_must_last() -> None:
    watch = HealthWatch(PAPER)
    ill = {"learner/trace_coefficient": 0.1}
    for _ in range(PATIENCE - 1):
        assert watch.check(ill, 5000, {}) == []
    assert watch.check({"learner/trace_coefficient": 0.5}, 5000, {}) == []
    for _ in range(PATIENCE - 1):
        assert watch.check(ill, 5000, {}) == []
    (warning,) = watch.check(ill, 5000, {})
    assert "--loss.trace peng" in warning
    assert watch.check(ill, 5000, {}) == []


@pytest.mark.parametrize(
    ("config", "values", "word"),
    [
        (LAPTOP, {"replay/fill_bytes": 1.0, "replay/fill_steps": 0.3}, "--replay.max-gb"),
        (LAPTOP, {"intrinsic/alpha_above_1": 0.0}, "life-long"),
        (LAPTOP, {"return/intrinsic": 0.0}, "no episode"),
        (LAPTOP, {"learner/fetch_seconds": 0.2, "learner/update_seconds": 0.1}, "bottleneck"),
        (LAPTOP, {"learner/trace_coefficient": 0.1}, None),  # peng does not use it
        (LAPTOP, {"replay/fill_bytes": 1.0, "replay/fill_steps": 1.0}, None),
        (LAPTOP, {"intrinsic/alpha_above_1": 0.3, "return/intrinsic": 1.0, "learner/fetch_seconds": 0.01}, None),
    ],
)
def test_ailments(config: Any, values: dict[str, float], word: str | None) -> None:
    watch = HealthWatch(config)
    told = [text for _ in range(2 * PATIENCE) for text in watch.check(values, 5000, {})]
    assert len(told) == (word is not None)
    assert all(word in text for text in told if word)


def test_memory_beyond_the_plan_is_told_of_each_process_once() -> None:
    watch = HealthWatch(PAPER, {"worker": 0.6e9, "learner": 2e9})
    values = {"memory_mb/worker_3": 1950.0, "memory_mb/worker_0": 1850.0, "memory_mb/learner": 3900.0}
    values |= {"memory_mb/weights": 1e6}  # nothing is planned for it
    (told,) = [text for _ in range(2 * PATIENCE) for text in watch.check(values, 0, {})]
    assert told.startswith("worker 3 takes 1.9 GB where 0.6 GB were planned: its environments may leak")
    assert "--cluster.worker-memory-gb" in told
    watch = HealthWatch(PAPER, {"all": 1e9})
    (told,) = [text for _ in range(PATIENCE) for text in watch.check({"memory_mb/all": 2600.0}, 0, {})]
    assert told == "this process takes 2.6 GB where 1.0 GB were planned: the environments may leak"


def test_history_of_arms_is_bounded_and_loses_no_episode() -> None:
    history = ArmHistory(num_policies=3, max_bins=4, width=100)
    assert history.shares().shape == (3, 0)
    for step in range(0, 1300, 50):
        history.add(step // 50 % 3, step)
        restored = ArmHistory(num_policies=3, max_bins=4, width=100)
        restored.load_state_dict(history.state_dict())
        history = restored
    # 1 300 steps need 4 bins of 400; of 26 episodes the first bin holds 8: policies 0 1 2 0 1 2 0 1.
    assert history.width == 400
    shares = history.shares()
    np.testing.assert_allclose(shares.sum(0), 1)
    np.testing.assert_allclose(shares[:, 0], [3 / 8, 3 / 8, 2 / 8])
    np.testing.assert_allclose(shares[:, 3], [1 / 2, 1 / 2, 0])  # episodes 24 and 25
    quiet = ArmHistory(2, width=10)
    quiet.add(1, 25)
    np.testing.assert_array_equal(quiet.shares(), [[np.nan, np.nan, 0], [np.nan, np.nan, 1]])


def test_pictures_have_their_values_colours() -> None:
    low, high, nothing = colours(np.array([0.0, 1.0, np.nan]), 0, 1)
    assert low.tolist() == [68, 1, 84]
    assert high.tolist() == [253, 231, 37]
    assert nothing.tolist() == [225, 225, 225]
    values = np.array([[0.0, 1.0], [1.0, np.nan]])
    picture = heat_map(values, ["first", "second"], "title", "0", "1M", 0, 1).reshape(-1, 3)
    for colour in (low, high, nothing):
        assert (picture == colour).all(1).sum() > 1000
    table = table_of_numbers(values, ["a", "b"], ["0", "1"], "title").reshape(-1, 3)
    assert (table == high).all(1).sum() > 500


def test_colour_clips_stay_in_colour() -> None:
    clip = np.zeros((3, 3, 7, 9), np.uint8)
    clip[:, 0] = 255
    encoded, height, width = animation(clip, 15.0)
    picture = Image.open(io.BytesIO(encoded))
    assert picture.size == (width, height)
    assert min(picture.size) >= 160
    assert picture.convert("RGB").getpixel((5, 5)) == (255, 0, 0)


def test_layout_is_a_pattern_per_tag() -> None:
    charts = custom_scalars()
    assert [*charts] == [*LAYOUT]
    assert charts["2 Exploration: what does it try, and is novelty alive?"]["share of pulls by policy"] == [
        "Multiline",
        [r"^bandit_share/\d+$"],
    ]


def test_runs_of_all_presets_are_compared_by_the_same_settings() -> None:
    settings = hyperparameters(LAPTOP)
    assert settings["env"] == "ALE/Pong-v5"
    assert settings["network.conv_filters"] == "(16, 32, 32)"
    assert set(hyperparameters(PAPER)) == set(settings)
    assert "run_dir" not in settings
    assert hyperparameters(tiny_config(seed=3))["seed"] == 3
