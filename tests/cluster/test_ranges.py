"""Every number of the config states its range, and nothing outside it gets past the command line or a file."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

import launch
from agent57.ranges import Range, check_ranges, ranges
from cluster.run.command_line import parse_train
from cluster.run.config import TrainConfig, load_config, save_config
from cluster.run.errors import UserError
from cluster.run.presets import SMOKE


def _numbers(cls: type, prefix: str = "") -> Iterator[tuple[str, Any, Range | None]]:
    """(flag without its dashes, type, range) of every field with numbers, nested classes too."""
    hints = typing.get_type_hints(cls)
    for name, range_ in ranges(cls).items():
        yield f"{prefix}{name}", hints[name], range_
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _numbers(typing.cast(type, hints[field.name]), f"{prefix}{field.name}.")


NUMBERS = {name: (hint, range_) for name, hint, range_ in _numbers(TrainConfig)}


def test_every_number_states_its_range() -> None:
    """Give a new field ``Annotated[int, Range(...)]``, and its class ``check_ranges`` in ``__post_init__``."""
    assert len(NUMBERS) > 60
    assert [name for name, (_, range_) in NUMBERS.items() if range_ is None] == []


@dataclass(frozen=True)
class New:
    plain: int | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    word: str = ""
    stated: Annotated[float, Range(at_least=0, below=1)] = 0.5


def test_a_field_without_a_range_is_found() -> None:
    assert ranges(New) == {"plain": None, "pair": None, "stated": Range(at_least=0, below=1)}
    with pytest.raises(ValueError, match=r"--part.stated must be at least 0 and below 1"):
        check_ranges(New(stated=1.0), "part")


def _nonsense(hint: Any, range_: Range) -> list[str]:
    """Texts that the field must refuse: beyond either bound, and for real numbers what is none."""
    low = range_.at_least if range_.at_least is not None else typing.cast(float, range_.above)
    high = range_.at_most if range_.at_most is not None else typing.cast(float, range_.below)
    whole = int in {hint, *typing.get_args(hint)}
    values = [low - 1, high + 1, high * 10 + 1, -1e30 if not whole else -(10**30), 1e30 if not whole else 10**30]
    if whole:
        return [str(int(value)) for value in values]
    edges = [range_.above, range_.below]
    return [
        repr(float(value)) for value in (*values, *edges, math.nan, math.inf, -math.inf, 1e308) if value is not None
    ]


@pytest.mark.parametrize("name", NUMBERS)
def test_nonsense_is_refused_in_one_sentence_that_names_the_flag(name: str) -> None:
    hint, range_ = NUMBERS[name]
    assert range_ is not None
    section, _, field = name.rpartition(".")
    cls = type(getattr(SMOKE, section)) if section else TrainConfig
    entries = len(typing.get_args(hint)) if typing.get_origin(hint) is tuple else 0
    flag = "--" + name.replace("_", "-")
    for text in _nonsense(hint, range_):
        number = int(text) if int in {hint, *typing.get_args(hint)} else float(text)
        with pytest.raises(ValueError, match=f"^{flag} must be (at least|above) .* and (at most|below) .* \\(got "):
            cls(**{field: (number,) * entries if entries else number})


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--learner.learning-rate", "nan"),
        ("--replay.replay-ratio", "inf"),
        ("--seed", "-1"),
        ("--seed", "9" * 400),
        ("--evaluation.policy-index", "-1"),
        ("--actor.steps-per-request", "1000000000"),
        ("--learner.device", "meta"),
        ("--learner.device", "cuda:-1"),
        ("--learner.device", ""),
        ("--network.conv-filters", "4 0 4"),
    ],
)
def test_the_command_line_refuses_it_as_the_user_typed_it(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.main(["train", flag, *(value.split(" "))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {flag}")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-1", "1e999"])
def test_a_config_file_edited_by_hand_goes_through_the_same(text: str, tmp_path: Path) -> None:
    save_config(SMOKE, tmp_path / "config.json")
    document = json.loads((tmp_path / "config.json").read_text())
    document["learner"]["learning_rate"] = "HERE"
    (tmp_path / "config.json").write_text(json.dumps(document).replace('"HERE"', text))
    with pytest.raises(UserError, match=r"--learner.learning-rate must be at least 0 and at most 1"):
        load_config(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"--learner.learning-rate"):
        parse_train(["--resume", str(tmp_path)])


@pytest.mark.parametrize("filters", [[1, 2], [1, 2, 3, 4], ["8", 8, 8], [8.0, 8, 8], [True, 8, 8], 8, None])
def test_a_list_in_a_config_file_has_the_right_length_and_kind(filters: Any, tmp_path: Path) -> None:
    save_config(SMOKE, tmp_path / "config.json")
    document = json.loads((tmp_path / "config.json").read_text())
    document["network"]["conv_filters"] = filters
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"network.conv_filters"):
        load_config(tmp_path / "config.json")
