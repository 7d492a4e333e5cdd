"""Every game of the benchmark goes once through a whole serial run from the command line: minutes, not a score.

python -m pytest -m slow tests/cluster/test_57_games.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import launch
from actors.environments.atari.scores import RANDOM_AND_HUMAN_SCORES, human_normalised_score
from cluster.commands.saved_agent import load_agent
from cluster.commands.suite import env_id
from cluster.telemetry.metrics import MetricSeries, read_metrics

STEPS, UPDATES, EVALUATION_FRAMES, FRAME_SKIP = 2_000, 20, 4_000, 4
FLAGS = (
    *("--preset", "smoke", "--serial", "--log-seconds", "0.2", "--environment.full-action-set"),
    # Episodes of 30 minutes would leave every round of evaluation unfinished.
    *("--environment.max-frames", "400", "--evaluation.period-env-frames", str(EVALUATION_FRAMES)),
)


@pytest.mark.slow
@pytest.mark.parametrize("game", sorted(RANDOM_AND_HUMAN_SCORES))
def test_a_game_starts_learns_is_saved_resumed_and_evaluated(game: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    first = FRAME_SKIP * STEPS
    start = ["--env", env_id(game), "--run-dir", str(run_dir), "--max-env-frames", str(first), *FLAGS]
    assert launch.main(["train", *start]) == 0
    before = load_agent(run_dir, pytest.fail)
    # The emulator takes 9 in Skiing, which has no button.
    assert before.spec.num_actions == (9 if game == "skiing" else 18)
    assert before.env_frames >= first
    assert before.updates >= UPDATES
    assert all(weights.isfinite().all() for weights in before.networks.state_dict().values())

    assert launch.main(["train", "--resume", str(run_dir), "--max-env-frames", str(first + EVALUATION_FRAMES)]) == 0
    after = load_agent(run_dir, pytest.fail)
    assert after.env_frames >= first + EVALUATION_FRAMES > before.env_frames
    assert after.updates > before.updates

    metrics = read_metrics(run_dir)
    for tag, series in metrics.items():
        if tag.startswith(("learner/", "intrinsic/", "evaluation/", "return/")):
            assert np.isfinite(series.values).all(), tag
    assert np.diff(metrics["rate/learner_updates"].env_frames).min() >= 0
    assert metrics["health/restarts"].values[-1] == 0
    check_scores(game, metrics["evaluation/return"], metrics["evaluation/human_normalised"])


def check_scores(game: str, scores: MetricSeries, normalised: MetricSeries) -> None:
    """A first score after the first round, dated when its weights were taken, and another after the resume."""
    assert len(scores.values) >= 2
    assert EVALUATION_FRAMES <= scores.env_frames[0] < 2 * EVALUATION_FRAMES
    expected = [human_normalised_score(game, score) for score in scores.values]
    np.testing.assert_allclose(normalised.values, expected, rtol=1e-5)
