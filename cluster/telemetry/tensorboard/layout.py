"""What TensorBoard's Custom Scalars page shows: the run's story in six chapters, from the score to its health.

The page reads top to bottom: is it any good, does it explore, does it learn, is the replay in step, what limits its
speed, did anything break. Written once per session by `telemetry.py`; docs/metrics.md explains every tag.
"""

from __future__ import annotations

import functools
from typing import Any

from cluster.run.config import TrainConfig, flat_fields
from cluster.run.presets import PRESETS

Layout = dict[str, dict[str, tuple[str, ...]]]
"""Chapter -> chart -> the tags that it overlays; NN stands for every policy, N for every worker."""

LAYOUT: Layout = {
    "1 Score: how well does it play?": {
        "greedy evaluation (the score)": ("evaluation/return", "evaluation/return_all_arms"),
        "standard error of the score": ("evaluation/return_stderr",),
        "episodes of the score": ("evaluation/return_episodes",),
        "human-normalised (1 = human)": ("evaluation/human_normalised", "evaluation/human_normalised_capped"),
        "training returns by epsilon": (
            "return_per_epsilon/low",
            "return_per_epsilon/middle",
            "return_per_epsilon/high",
        ),
        "episode length": ("evaluation/episode_length", "return/length"),
    },
    "2 Exploration: what does it try, and is novelty alive?": {
        "share of pulls by policy": ("bandit_share/NN",),
        "return by policy": ("return_per_arm/NN",),
        "policies in favour": ("bandit/favourite_arm", "evaluation/greedy_arm"),
        "episodes between choice and play": ("bandit/choice_lag",),
        "intrinsic reward": ("intrinsic/reward", "intrinsic/episodic"),
        "life-long novelty": ("intrinsic/alpha", "intrinsic/alpha_max", "intrinsic/alpha_above_1"),
        "RND error": ("intrinsic/rnd_error", "learner/rnd_error"),
        "does the embedding know the action?": ("learner/embedding_accuracy",),
        "different states per episode": ("evaluation/new_states", "return/new_states"),
    },
    "3 Learning: do the values converge?": {
        "loss": ("learner/extrinsic_loss", "learner/intrinsic_loss", "learner/q_loss"),
        "absolute TD error": ("learner/extrinsic_abs_td", "learner/intrinsic_abs_td", "learner/q_abs_td"),
        "mean Q": ("learner/extrinsic_mean_q", "learner/intrinsic_mean_q", "learner/q_mean_q"),
        "largest absolute Q": ("learner/extrinsic_max_abs_q", "learner/intrinsic_max_abs_q", "learner/q_max_abs_q"),
        "gradient norm": ("learner/extrinsic_grad_norm", "learner/intrinsic_grad_norm", "learner/q_grad_norm"),
        "trace coefficient": ("learner/trace_coefficient",),
        "left out by the trust region": ("learner/masked_share",),
        "policy head: agreement with the values": ("learner/policy_agreement", "learner/policy_masked_share"),
    },
    "4 Replay: is training in step with acting?": {
        "trained transitions per step": ("replay/ratio",),
        "how full": ("replay/fill_steps", "replay/fill_bytes"),
        "priorities": ("replay/priority_mean", "replay/initial_priority", "replay/updated_priority"),
        "age of what is drawn": ("replay/sampled_age",),
        "policy lag in updates": ("actor/policy_lag_updates",),
    },
    "5 Speed: what limits it?": {
        "environment frames per second": ("rate/env_frames_per_second",),
        "updates per second": ("rate/updates_per_second",),
        "one update, in seconds": ("learner/update_seconds", "learner/fetch_seconds"),
        "one request to a worker, in seconds": (
            "actor/acting_seconds",
            "actor/priority_seconds",
            "actor/encode_seconds",
            "actor/deliver_seconds",
            "actor/pull_seconds",
        ),
    },
    "6 Health: did anything break?": {
        "restarts and losses": ("health/restarts", "health/lost_sequences", "learner/bad_updates"),
        "memory in MB": ("memory_mb/N",),
        "episodes": ("health/episodes",),
    },
}


def custom_scalars() -> dict[str, dict[str, list]]:
    """`LAYOUT` as ``SummaryWriter.add_custom_scalars`` takes it: each tag a regular expression of its own."""
    return {
        chapter: {chart: ["Multiline", [_pattern(tag) for tag in tags]] for chart, tags in charts.items()}
        for chapter, charts in LAYOUT.items()
    }


def _pattern(tag: str) -> str:
    group, name = tag.split("/")
    every = {"NN": r"\d+", "N": r"\w+"}
    return f"^{group}/{every.get(name, name)}$"


COMPARED = ("evaluation/return", "return/all", "rate/env_frames_per_second", "rate/learner_updates")
"""The results that the HParams page shows beside the settings."""
_NO_SETTING = {"run_dir", "log_seconds", "max_minutes"}


def hyperparameters(config: TrainConfig) -> dict[str, bool | int | float | str]:
    """What the HParams page compares runs by: the fields in which presets differ, and those that differ here."""
    ours, paper = flat_fields(config), _paper()
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in ours.items()
        if name in ("env", "seed") or name in _differing() or (name not in _NO_SETTING and value != paper[name])
    }


def _paper() -> dict[str, Any]:
    return flat_fields(PRESETS["paper"])


@functools.cache
def _differing() -> frozenset[str]:
    paper = _paper()
    presets = [flat_fields(preset) for preset in PRESETS.values()]
    return frozenset(name for name in paper if any(preset[name] != paper[name] for preset in presets)) - _NO_SETTING
