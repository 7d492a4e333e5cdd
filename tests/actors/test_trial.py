"""What a trial of an environment finds before anything is planned: one sentence for each kind of mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import launch
from actors.environments.contract import EnvironmentConfig
from actors.environments.supported_spaces import UnsupportedEnvironment
from actors.environments.trial import try_environment

MODULE = "tests.hostile_environments"
BOX, TWO = spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(2)


def hostile(*arguments: str) -> EnvironmentConfig:
    return EnvironmentConfig(arguments=arguments)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("nan observation", "its observation is nan at [2]"),
        ("huge observation", "beyond 1e+15"),
        ("shape", "its observation has the shape (3,), not (4,)"),
        ("words", "not of numbers"),
        ("ragged", "makes no array"),
        ("uint8", "whole numbers from 0 to 255"),
        ("no reward", "its reward is None"),
        ("array reward", "its reward is array([1.]), not one number"),
        ("huge reward", "1e+300, beyond"),
        ("flag", "terminated is None"),
        ("four values", "observation, reward, terminated, truncated, info"),
        ("old reset", "reset returned one ndarray"),
        ("exit", "raised SystemExit: 0"),
        ("raise", "raised RuntimeError: the emulator tripped over a cable"),
        ("interrupt", "nterrupt"),
        ("raises in its constructor", "no licence for the simulator"),
        ("exits in its constructor", "SystemExit"),
    ],
)
def test_an_environment_that_fails_every_time_is_refused_in_one_sentence(fault: str, words: str) -> None:
    with pytest.raises(UnsupportedEnvironment) as refusal:
        try_environment(f"{MODULE}:Hostile-v0", hostile(f"fault={fault}"))
    assert words in str(refusal.value)
    assert f"{MODULE}:Hostile-v0" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("fault", ["", "list", "float64", "ragged info", "foreign revisit"])
def test_what_is_only_odd_passes(fault: str) -> None:
    trial = try_environment(f"{MODULE}:Hostile-v0", hostile(f"fault={fault}"))
    assert trial.spec.observation_shape == (4,)
    assert not trial.may_last


@pytest.mark.parametrize("fault", ["nan reward", "raise", "shape"])
def test_what_fails_now_and_then_passes(fault: str) -> None:
    assert try_environment(f"{MODULE}:Hostile-v0", hostile(f"fault={fault}", "every=0.03")).spec.num_actions == 3


def test_reset_must_take_a_seed() -> None:
    with pytest.raises(UnsupportedEnvironment, match="reset takes seed and options"):
        try_environment(f"{MODULE}:NoSeed-v0", EnvironmentConfig())


@pytest.mark.parametrize(
    ("observations", "actions", "words"),
    [
        (BOX, spaces.Discrete(40_000), "40,000 actions"),
        (spaces.Box(-1, 1, (0,)), TWO, "hold nothing"),
        (spaces.Box(0, 255, (0, 8, 3), np.uint8), TWO, "hold nothing"),
        (spaces.Box(0, 0, (4,), np.uint8), TWO, "low = high = 0"),
        (spaces.Box(3, 3, (2, 2)), TWO, "low = high = 3"),
        (spaces.Discrete(2_000_000), TWO, "2,000,000 zeros and ones"),
        (spaces.Text(5), TWO, "FlattenObservation"),
        (spaces.Graph(BOX, None), TWO, "TransformObservation"),
        (None, TWO, "NoneType observations"),
    ],
)
def test_spaces_that_cannot_be_used(observations: Any, actions: Any, words: str) -> None:
    with pytest.raises(UnsupportedEnvironment, match="AnySpaces-v0") as refusal:
        try_environment(register(observations, actions), EnvironmentConfig())
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("observations", "actions"),
    [
        (spaces.Discrete(6, start=5), spaces.Discrete(3, start=-1)),
        (spaces.MultiBinary(4), spaces.Discrete(3, start=5)),
        (spaces.MultiDiscrete([2, 3]), spaces.Discrete(1)),
        (spaces.Box(-100, 100, (4,), np.int8), spaces.Discrete(4096)),
        (spaces.Box(0, 65535, (12, 12, 3), np.uint16), TWO),
        (spaces.Box(0, 255, (12, 12, 3), np.float64), TWO),
        (spaces.Box(-np.inf, np.inf, (4,), np.float64), TWO),
        (spaces.Box(-1, 1, ()), TWO),
    ],
)
def test_unusual_spaces_pass(observations: Any, actions: Any) -> None:
    assert try_environment(register(observations, actions), EnvironmentConfig()).spec.num_actions == actions.n


def register(observations: Any, actions: Any) -> str:
    gymnasium.registry.pop("AnySpaces-v0", None)
    gymnasium.register("AnySpaces-v0", f"{MODULE}:AnySpaces", kwargs={"observations": observations, "actions": actions})
    return "AnySpaces-v0"


def test_whether_episodes_may_last_for_ever() -> None:
    endless = f"{MODULE}:Unlimited-v0"
    assert try_environment(endless, EnvironmentConfig()).may_last
    assert not try_environment(endless, EnvironmentConfig(max_episode_steps=1000)).may_last
    assert not try_environment("ALE/Pong-v5", EnvironmentConfig()).may_last
    assert not try_environment("Agent57/RandomCoin-v0", EnvironmentConfig()).may_last
    assert not try_environment("tests.fakes:Chain-v0", EnvironmentConfig()).may_last, "it has no limit, but ended"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def x(:", "SyntaxError"),
        ("raise RuntimeError('no display')", "RuntimeError: no display"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import no_such_package", "no_such_package"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_module_that_cannot_be_imported(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "broken_module.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    run_dir = tmp_path / "run"
    command = ["train", "--preset", "smoke", "--serial", "--env", "broken_module:X-v0", "--run-dir", str(run_dir)]
    assert launch.main(command) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "broken_module:X-v0" in told
    assert told.count("\n") == 1
    assert not run_dir.exists()


@pytest.mark.parametrize("name", [".x:Y-v0", "..:Y-v0", ":", "a b:Y-v0", "x:", "tests.fakes:", "/:Y"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UnsupportedEnvironment) as refusal:
        try_environment(name, EnvironmentConfig())
    assert "\n" not in str(refusal.value)
