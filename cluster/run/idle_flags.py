"""Flags that have no effect beside others, refused so that nobody believes otherwise.

What counts is a value that differs from the preset's, or from the resumed run's: both may well set what another flag
idles. Used by `command_line.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from actors.environments.contract import UnsupportedEnvironment, atari_rom
from cluster.run.config import TrainConfig
from cluster.run.errors import UserError


@dataclass(frozen=True)
class Idle:
    """``fields`` of a config have no effect ``when`` it is so; ``why`` ends the sentence that says it."""

    why: str
    when: Callable[[TrainConfig], bool]
    fields: tuple[str, ...]


def _no_atari_game(config: TrainConfig) -> bool:
    try:
        return atari_rom(config.env) is None
    except UnsupportedEnvironment:
        # That is told when the environment is tried.
        return False


def _several_in_serial(name: str, config: TrainConfig) -> bool:
    return config.serial and getattr(config.cluster, name) > 1


OF_AN_EPISODE = tuple(f"intrinsic.{name}" for name in ("memory_capacity", "cluster_distance", "max_similarity"))
OF_NEIGHBOURS = ("num_neighbours", "kernel_epsilon", "pseudo_count", "distance_decay")
EPISODIC = (*OF_AN_EPISODE, *(f"intrinsic.{name}" for name in OF_NEIGHBOURS))
ATOMS = tuple(f"intrinsic.{name}" for name in ("atoms", "count_decay", "atom_tolerance", "atom_insertion"))
LIFELONG = ("network.rnd_size", "learner.rnd_learning_rate", "intrinsic.error_horizon")
EMBEDDING = ("intrinsic.embedding", "network.embedding_size", "network.embedding_inputs")
EMBEDDING_TRAINING = ("network.embedding_hidden", "learner.embedding_learning_rate", "learner.embedding_l2")
BANDIT = ("bandit.epsilon", "bandit.ucb_bonus", "bandit.normalize_returns")
EVALUATORS_BANDIT = ("evaluation.bandit_epsilon", "evaluation.ucb_bonus")

IDLE = (
    Idle(
        "on {config.env}, which is no Atari game",
        _no_atari_game,
        tuple(
            f"environment.{name}"
            for name in ("full_action_set", "screen", "frame_skip", "noop_max", "max_frames", "sticky_actions")
        ),
    ),
    Idle(
        "with --serial, which runs everything in one process",
        lambda config: config.serial,
        tuple(
            f"cluster.{name}"
            for name in (
                "address",
                "worker_gpu_fraction",
                "learner_threads",
                "prefetch_batches",
                "object_store_gb",
                "request_timeout_seconds",
                "worker_memory_gb",
            )
        ),
    ),
    # Asking for one of each is asking for what there is.
    *(
        Idle(
            "with --serial, which runs everything in one process",
            functools.partial(_several_in_serial, name),
            (f"cluster.{name}",),
        )
        for name in ("num_workers", "num_learners", "replay_shards")
    ),
    Idle(
        "with --bandit.assignment {config.bandit.assignment}, where no bandit chooses",
        lambda config: config.bandit.assignment != "ucb",
        BANDIT,
    ),
    Idle(
        "with --family.num-policies 1, which leaves nothing to choose",
        lambda config: config.family.num_policies == 1,
        (*BANDIT, *EVALUATORS_BANDIT),
    ),
    Idle(
        "with --family.num-policies below 10, where gamma-max and gamma-min alone span the ladder",
        lambda config: config.family.num_policies < 10,
        ("family.gamma_mid", "family.ladder"),
    ),
    Idle(
        "with --family.ladder log_uniform, which has no middle",
        lambda config: config.family.ladder == "log_uniform",
        ("family.gamma_mid",),
    ),
    Idle(
        "with --learner.optimizer adam, whose weights do not decay",
        lambda config: config.learner.optimizer == "adam",
        ("learner.weight_decay",),
    ),
    Idle(
        "with several learners, whose messages are left out of a graph",
        lambda config: not config.serial and config.cluster.num_learners > 1,
        ("learner.compile",),
    ),
    Idle(
        "with --learner.device cpu: it is for a GPU",
        lambda config: config.learner.device == "cpu",
        ("learner.compile", "learner.matrix_precision"),
    ),
    Idle(
        "with --evaluation.period-env-frames 0, which turns evaluation off",
        lambda config: config.evaluation.period_env_frames == 0,
        ("evaluation.episodes", *EVALUATORS_BANDIT),
    ),
    Idle(
        "with --evaluation.policy-index, which leaves nothing to choose",
        lambda config: config.evaluation.policy_index is not None,
        (*EVALUATORS_BANDIT, "evaluation.bandit_window"),
    ),
    Idle(
        "with --network.torso mlp, which has no convolutions",
        lambda config: config.network.torso == "mlp",
        ("network.conv_filters",),
    ),
    Idle(
        "with --network.torso {config.network.torso}: only nfnet has residual blocks",
        lambda config: config.network.torso in ("auto", "conv", "small_conv", "mlp"),
        ("network.nfnet_filters", "network.nfnet_blocks", "network.stochastic_depth"),
    ),
    Idle(
        "with --network.kind {config.network.kind}, where nothing is rescaled before it is mixed",
        lambda config: config.network.kind != "separate",
        ("loss.mix",),
    ),
    Idle(
        "with --network.kind {config.network.kind}, where a policy learns from what it played",
        lambda config: config.network.kind != "shared",
        ("loss.mixture_eta",),
    ),
    Idle(
        "without --network.policy-head",
        lambda config: not config.network.policy_head,
        ("loss.policy_temperature", "loss.distillation_epsilon", "loss.distillation_kl"),
    ),
    Idle(
        "with --loss.trace {config.loss.trace}: only soft_watkins compares values",
        lambda config: config.loss.trace in ("retrace", "peng"),
        ("loss.kappa",),
    ),
    Idle(
        "with --loss.no-normalize-td, which divides by nothing",
        lambda config: not config.loss.normalize_td,
        ("loss.td_scale",),
    ),
    Idle(
        "with --intrinsic.novelty {config.intrinsic.novelty}, which has no episodic part",
        lambda config: config.intrinsic.novelty in ("lifelong", "none"),
        EPISODIC,
    ),
    Idle(
        "with --intrinsic.novelty recode, which has one memory for all episodes and no life-long part",
        lambda config: config.intrinsic.novelty == "recode",
        (*OF_AN_EPISODE, *LIFELONG),
    ),
    Idle(
        "with --intrinsic.novelty {config.intrinsic.novelty}: only recode has atoms",
        lambda config: config.intrinsic.novelty in ("both", "episodic", "lifelong", "none"),
        ATOMS,
    ),
    Idle(
        "with --intrinsic.novelty lifelong, which has no embedding",
        lambda config: config.intrinsic.novelty == "lifelong",
        (*EMBEDDING, *EMBEDDING_TRAINING),
    ),
    Idle(
        "with --intrinsic.novelty {config.intrinsic.novelty}, which has no life-long part",
        lambda config: config.intrinsic.novelty in ("episodic", "none"),
        LIFELONG,
    ),
    Idle(
        "with --intrinsic.novelty {config.intrinsic.novelty}: only both multiplies by alpha",
        lambda config: config.intrinsic.novelty != "both",
        ("intrinsic.max_lifelong_scale",),
    ),
    Idle(
        "with --intrinsic.novelty none, which computes and trains neither embedding nor RND",
        lambda config: config.intrinsic.novelty == "none",
        (*EMBEDDING, *EMBEDDING_TRAINING, "learner.auxiliary_steps", "loss.normalize_intrinsic"),
    ),
)


def refuse_idle_flags(config: TrainConfig, default: TrainConfig) -> None:
    """Raise UserError for a field of ``config`` that differs from ``default`` and has no effect beside the others."""
    for idle in IDLE:
        changed = [field for field in idle.fields if _value(config, field) != _value(default, field)]
        # In this order, since asking what an environment is may import its module.
        if changed and idle.when(config):
            flags = " and ".join(f"--{field}".replace("_", "-") for field in changed)
            verb = "has" if len(changed) == 1 else "have"
            raise UserError(f"{flags} {verb} no effect {idle.why.format(config=config)}: leave out one or the other.")


def _value(config: TrainConfig, field: str) -> Any:
    return functools.reduce(getattr, field.split("."), config)
