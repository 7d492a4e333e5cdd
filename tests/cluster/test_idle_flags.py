"""A flag that would have no effect is refused; what presets and runs set beside it is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cluster.run.command_line import parse_train
from cluster.run.config import TrainConfig, save_config
from cluster.run.errors import UserError
from cluster.run.idle_flags import IDLE
from cluster.run.presets import PRESETS

CARTPOLE = ["--env", "CartPole-v1"]
REFUSED = {
    "sticky actions elsewhere": ([*CARTPOLE, "--environment.sticky-actions", "0.25"], "CartPole-v1, which is no Atari"),
    "frame skip elsewhere": ([*CARTPOLE, "--environment.frame-skip", "2"], "--environment.frame-skip has no effect"),
    "no-ops elsewhere": (["--env", "Agent57/RandomCoin-v0", "--environment.noop-max", "0"], "noop-max"),
    "frames elsewhere": ([*CARTPOLE, "--environment.max-frames", "500"], "--environment.max-frames"),
    "screens elsewhere": ([*CARTPOLE, "--environment.screen", "210x160"], "--environment.screen"),
    "depth of a flat torso": (["--network.stochastic-depth", "0.2"], "only nfnet has residual blocks"),
    "actions elsewhere": ([*CARTPOLE, "--environment.full-action-set"], "--environment.full-action-set"),
    "several": (
        [*CARTPOLE, "--environment.noop-max", "0", "--environment.frame-skip", "2"],
        "--environment.frame-skip and --environment.noop-max have no effect",
    ),
    "Ray's share": (["--serial", "--cluster.object-store-gb", "1"], "with --serial"),
    "several workers": (["--serial", "--cluster.num-workers", "2"], "num-workers has no effect with"),
    "several shards": (["--serial", "--cluster.replay-shards", "2"], "--cluster.replay-shards"),
    "several learners": (["--serial", "--cluster.num-learners", "2"], "--cluster.num-learners"),
    "a bandit that chooses not": (
        ["--bandit.assignment", "per_lane", "--bandit.epsilon", "0.1"],
        "--bandit.epsilon has no effect with --bandit.assignment per_lane",
    ),
    "one policy": (["--family.num-policies", "1", "--bandit.ucb-bonus", "0.1"], "--bandit.ucb-bonus"),
    "a short ladder": (["--family.num-policies", "8", "--family.gamma-mid", "0.98"], "below 10"),
    "an even ladder": (["--preset", "meme", "--family.gamma-mid", "0.99"], "no middle"),
    "weights that stay": (["--learner.weight-decay", "0.1"], "--learner.optimizer adam"),
    "a GPU's arithmetic": (["--learner.device", "cpu", "--learner.matrix-precision", "tf32"], "it is for a GPU"),
    "a graph of several": (["--cluster.num-learners", "2", "--learner.compile", "off"], "left out of a graph"),
    "rounds that are off": (["--evaluation.period-env-frames", "0", "--evaluation.episodes", "9"], "evaluation off"),
    "one evaluated policy": (["--evaluation.policy-index", "0", "--evaluation.bandit-window", "9"], "bandit-window"),
    "filters of an MLP": (["--network.torso", "mlp", "--network.conv-filters", "8", "8", "8"], "no convolutions"),
    "filters of a preset's MLP": (["--preset", "small", *CARTPOLE, "--network.conv-filters", "8", "8", "8"], "mlp"),
    "a tolerance of nothing": (["--loss.kappa", "0.1"], "only soft_watkins compares values"),
    "a mixture of one": (["--loss.mixture-eta", "0.3"], "where a policy learns from what it played"),
    "a head that is not there": (["--network.kind", "shared", "--loss.distillation-kl", "1"], "without --network.p"),
    "a scale of nothing": (
        ["--loss.no-normalize-td", "--loss.td-scale", "policy"],
        "--loss.td-scale has no effect with --loss.no-normalize-td",
    ),
    "a mix of one": (["--network.kind", "single", "--loss.mix", "linear"], "--loss.mix"),
    "a memory that pays not": (["--intrinsic.novelty", "lifelong", "--intrinsic.memory-capacity", "99"], "no episodic"),
    "atoms of no memory": (["--intrinsic.atoms", "99"], "only recode has atoms"),
    "an episode's memory beside atoms": (
        ["--intrinsic.novelty", "recode", "--intrinsic.memory-capacity", "99"],
        "one memory for all episodes",
    ),
    "an error that pays not": (["--intrinsic.novelty", "episodic", "--network.rnd-size", "64"], "no life-long part"),
    "nothing to clip": (["--intrinsic.novelty", "lifelong", "--intrinsic.max-lifelong-scale", "2"], "both"),
    "no novelty": (
        ["--intrinsic.novelty", "none", "--family.beta-max", "0", "--network.embedding-size", "8"],
        "neither embedding nor RND",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_flag_without_effect_is_refused(case: str) -> None:
    arguments, sentence = REFUSED[case]
    with pytest.raises(UserError, match="no effect") as refused:
        parse_train(arguments)
    assert sentence in str(refused.value)


def test_every_rule_has_a_case() -> None:
    told = " ".join(str(refusal(arguments)) for arguments, _ in REFUSED.values())
    for idle in IDLE:
        assert any(f"--{field}".replace("_", "-") in told for field in idle.fields), idle.why


def refusal(arguments: list[str]) -> UserError:
    with pytest.raises(UserError) as refused:
        parse_train(arguments)
    return refused.value


ACCEPTED = {
    "what a preset sets itself": (["--preset", "laptop", "--env", "CartPole-v1"]),
    "the preset's value again": (["--preset", "laptop", "--env", "CartPole-v1", "--environment.no-full-action-set"]),
    "a serial run of a preset with workers": (["--preset", "smoke", "--serial"]),
    "one worker is what a serial run has": (["--serial", "--cluster.num-workers", "1", "--cluster.num-learners", "1"]),
    "an ablation of a preset with a bandit": (["--preset", "laptop", "--bandit.assignment", "most_exploratory"]),
    "lanes and updates of a serial run": (["--serial", "--cluster.lanes-per-worker", "4"]),
    "Atari's own": (["--env", "ALE/Pong-v5", "--environment.sticky-actions", "0.25", "--environment.mode", "1"]),
    "an environment that is not there is told later": (["--env", "Nowhere-v0", "--environment.frame-skip", "2"]),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_has_an_effect_or_was_not_asked_for_is_not_refused(case: str) -> None:
    parse_train(ACCEPTED[case])


def test_a_resumed_run_keeps_what_it_was_made_with(tmp_path: Path) -> None:
    smoke = PRESETS["smoke"]
    made = dataclasses.replace(smoke, cluster=dataclasses.replace(smoke.cluster, object_store_gb=0.3))
    save_config(made, tmp_path / "config.json")
    assert parse_train(["--resume", str(tmp_path), "--serial"]).config.serial
    with pytest.raises(UserError, match="object-store-gb has no effect"):
        parse_train(["--resume", str(tmp_path), "--serial", "--cluster.object-store-gb", "0.4"])


def test_rules_name_fields_that_exist() -> None:
    for field in (field for idle in IDLE for field in idle.fields):
        group, name = field.split(".")
        assert hasattr(getattr(TrainConfig(), group), name), field
