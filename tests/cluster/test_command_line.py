"""The command line: what users type, and what they read when they mistype."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import launch
from cluster.run.command_line import parse_train
from cluster.run.errors import UserError
from cluster.run.presets import LAPTOP, PRESETS


def test_the_default_is_the_laptop_preset_on_pong() -> None:
    parsed = parse_train([])
    assert parsed.config == LAPTOP
    assert parsed.config.env == "ALE/Pong-v5"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_field_can_be_overridden_on_every_preset(preset: str) -> None:
    arguments = ["--preset", preset, "--learner.batch-size", "33", "--family.num-policies=3", "--serial"]
    arguments += [
        "--env",
        "ALE/Venture-v5",
        "--network.torso",
        "conv",
        "--seed",
        "7",
        "--max-minutes",
        "1.5",
        "--max-env-frames",
        "10",
    ]
    arguments += ["--run-dir", "x", "--environment.no-full-action-set"]
    arguments += ["--network.torso", "conv", "--network.conv-filters", "4", "8", "8"]
    config = parse_train(arguments).config
    assert (config.learner.batch_size, config.family.num_policies, config.serial) == (33, 3, True)
    assert (config.env, config.seed, config.max_minutes, config.max_env_frames) == ("ALE/Venture-v5", 7, 1.5, 10)
    assert (config.run_dir, config.environment.full_action_set) == ("x", False)
    assert config.network.conv_filters == (4, 8, 8)
    assert config.bandit == PRESETS[preset].bandit


MISTAKES = {
    "a typo in a flag": (["--learner.batchsize", "3"], "--learner.batch-size"),
    "an unknown preset": (["--preset", "huge"], "laptop"),
    "a word for a number": (["--seed", "many"], "seed"),
    "a value out of range": (["--learner.batch-size", "0"], "learner.batch-size must be at least 1"),
    "an impossible choice": (["--loss.trace", "vtrace"], "trace"),
    "a stray word": (["pong"], "pong"),
    "contradicting parts": (["--loss.burn-in", "500"], "burn-in"),
    "an unknown game": (["--env", "ALE/Pongg-v5"], "Pong"),
    "a continuous action space": (["--env", "tests.fakes:ContinuousAction-v0"], "iscrete"),
    "dictionary observations": (["--env", "tests.fakes:DictObservation-v0"], "rapper"),
    "a missing module": (["--env", "no_such_module:Env-v0"], "no_such_module"),
    "a missing run": (["--resume", "no/such/run"], "no/such/run"),
    "a missing device": (["--learner.device", "cuda:77", "--env", "CartPole-v1"], "cuda:77"),
    "too little memory": (["--replay.max-gb", "1e6", "--env", "CartPole-v1"], "--replay.max-gb"),
    "another limit of Atari episodes": (["--environment.max-episode-steps", "100"], "--environment.max-frames 400"),
    "a mode that is not": (["--environment.mode", "9"], "--environment.mode is one of 0, 1"),
    "a difficulty elsewhere": (["--env", "CartPole-v1", "--environment.difficulty", "1"], "no Atari game"),
    "a torso that cannot be": (["--env", "CartPole-v1", "--network.torso", "conv"], "torso"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_give_one_clear_sentence_and_exit_code_2(
    mistake: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, hint = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    code = launch.main(["train", *arguments])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.startswith("error: ")
    assert len(captured.err.strip().splitlines()) == 1
    assert hint in captured.err
    assert "Traceback" not in captured.err + captured.out
    assert list(tmp_path.iterdir()) == [], "nothing is left half-done"


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["trian"]) == 2
    assert "trian" in capsys.readouterr().err


def test_eval_without_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert launch.main(["eval", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err


def test_preset_and_resume_exclude_each_other() -> None:
    with pytest.raises(UserError, match="exclude"):
        parse_train(["--resume", "x", "--preset", "paper"])


def test_help_lists_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_train(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--env", "--seed", "--serial", "--resume", "--preset", "--max-minutes", "--learner.batch-size"):
        assert flag in text
    assert "Sequences per update" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--learner.batch-size abc", "--learner.batch-size takes a whole number, not 'abc'."),
        ("--learner.learning-rate=", "--learner.learning-rate takes a number, not ''."),
        ("--seed 1.5", "--seed takes a whole number, not '1.5'."),
        ("--loss.burn-in 500", "loss.burn-in must not exceed the overlap of two sequences (0)"),
        ("--env", "Missing value for argument '--env'"),
        ("--resume --serial", "--resume needs a value."),
    ],
)
def test_a_mistake_is_told_without_the_frame_drawn_around_it(
    arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.main(["train", *arguments.split(" ")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {sentence}")


@pytest.mark.parametrize("flag", ["--help", "--replay.max-gbb=3"])
def test_help_and_the_sentence_for_a_wrong_flag_wait_for_no_large_library(flag: str) -> None:
    program = (
        "import sys\n"
        "from cluster.commands.train_command import run\n"
        "from cluster.run.errors import UserError\n"
        "try:\n    run([sys.argv[1]])\n"
        "except (SystemExit, UserError):\n    pass\n"
        "sys.exit(' '.join({'torch', 'ray', 'gymnasium', 'ale_py', 'tensorboard'} & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, flag], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
