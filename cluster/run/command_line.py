"""Turns ``train`` arguments into a `TrainConfig`: a preset, or the config of a resumed run, with overrides.

tyro derives the flags from the dataclasses and their field docstrings. Used by `launch.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import io
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import tyro

from actors.trusted_modules import UntrustedModule, module_of, refuse_untrusted
from agent57.ranges import Range
from cluster.run.config import TrainConfig, load_config
from cluster.run.errors import UserError
from cluster.run.presets import PRESETS

DEFAULT_PRESET = "laptop"
HEADER = f"""Train Agent57. Flags beside those below:
  --preset {{{",".join(PRESETS)}}}  starting point that the other flags override (default: {DEFAULT_PRESET})
  --resume RUN_DIR                     go on with a run; flags override its config
  --trust-modules A,B                  modules of environments and of extensions that a resumed run may import"""
TRUST_REMEDY = "add --trust-modules {}"


class CommandParser(argparse.ArgumentParser):
    """argparse for the smaller commands: a mistake is one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: '{self.prog} --help' lists what there is.")


def whole(at_least: int, at_most: int) -> Callable[[str], int]:
    """An argparse type: a whole number in this range."""
    range_ = Range(at_least=at_least, at_most=at_most)

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"takes a whole number, not {text!r}") from None
        if number not in range_:
            raise argparse.ArgumentTypeError(f"must be {range_}")
        return number

    return parse


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Give a command that opens a run the flag by which its user vouches for what the run would import."""
    parser.add_argument(
        "--trust-modules",
        type=_names,
        default=(),
        metavar="A,B",
        help="modules that the run's environment may import (what a run was made with is not run unasked)",
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


@dataclass(frozen=True)
class TrainArguments:
    config: TrainConfig
    preset: str
    resume: Path | None


def parse_train(arguments: list[str]) -> TrainArguments:
    """Parse ``train``'s arguments. Raises UserError for anything wrong; ``--help`` prints and exits."""
    for argument in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise UserError(f"{argument!r} is no text in UTF-8: rename it, or set LC_ALL=C.UTF-8.")
    preset, rest = _take_option(arguments, "--preset")
    resume, rest = _take_option(rest, "--resume")
    trusted, rest = _take_option(rest, "--trust-modules")
    if preset is not None and preset not in PRESETS:
        raise UserError(f"'{preset}' is not a preset: choose one of {', '.join(PRESETS)}.")
    if resume is not None and preset is not None:
        raise UserError("--preset and --resume exclude each other: a resumed run keeps its own config.")
    default = load_config(Path(resume) / "config.json") if resume is not None else PRESETS[preset or DEFAULT_PRESET]
    config = _apply_flags(default, rest)
    # Only now, so that --help and the sentence for a wrong flag come at once: these need torch and gymnasium.
    from actors.extensions import UnusableExtension, load_extensions
    from cluster.run.idle_flags import refuse_idle_flags

    if resume is not None:
        _refuse_strangers(default, rest, _names(trusted or ""), resume)
    if resume is not None and config.run_dir != default.run_dir:
        raise UserError("--run-dir and --resume exclude each other: a resumed run stays in its folder.")
    try:
        load_extensions(config.agent)
    except UnusableExtension as error:
        raise UserError(f"{error}.") from None
    refuse_idle_flags(config, default)
    return TrainArguments(config, preset or DEFAULT_PRESET, Path(resume) if resume else None)


def _refuse_strangers(saved: TrainConfig, flags: list[str], trusted: tuple[str, ...], source: str) -> None:
    """A resumed run may be somebody else's: it imports no module, and joins no cluster, that the user did not name."""
    from actors.extensions import modules_of

    env, rest = _take_option(flags, "--env")
    try:
        refuse_untrusted(saved.env, (*trusted, module_of(env or "")), source, TRUST_REMEDY)
        for field, name in modules_of(saved.agent):
            given, rest = _take_option(rest, f"--{field}")
            refuse_untrusted(name, (*trusted, module_of(given or "")), source, TRUST_REMEDY, field)
    except UntrustedModule as error:
        raise UserError(str(error)) from None
    address, _ = _take_option(rest, "--cluster.address")
    if saved.cluster.address not in ("", "auto", address) and address is None:
        raise UserError(
            f"{source} was made on the Ray cluster {saved.cluster.address}, whose nodes can run code here: if you "
            f"trust it, add --cluster.address {saved.cluster.address}."
        )


def _take_option(arguments: list[str], name: str) -> tuple[str | None, list[str]]:
    """(value of ``name``, the other arguments); accepts ``--name value`` and ``--name=value``."""
    value, rest, index = None, [], 0
    while index < len(arguments):
        argument = arguments[index]
        if argument == name:
            if index + 1 == len(arguments) or arguments[index + 1].startswith("--"):
                raise UserError(f"{name} needs a value.")
            value = arguments[index + 1]
            index += 1
        elif argument.startswith(name + "="):
            value = argument.split("=", 1)[1]
        else:
            rest.append(argument)
        index += 1
    return value, rest


def _apply_flags(default: TrainConfig, arguments: list[str]) -> TrainConfig:
    if "-h" in arguments or "--help" in arguments:
        return tyro.cli(TrainConfig, default=default, args=["--help"], prog="launch.py train", description=HEADER)
    known = _flags(TrainConfig, "--")
    for argument in arguments:
        flag = argument.split("=", 1)[0].replace("_", "-")
        if flag.startswith("--") and flag not in known:
            close = difflib.get_close_matches(flag, known, 1)
            hint = f"did you mean {close[0]}?" if close else "'launch.py train --help' lists every flag."
            raise UserError(f"{flag} is not a flag: {hint}")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(complaint):
            return tyro.cli(TrainConfig, default=default, args=arguments, prog="launch.py train")
    except ValueError as error:
        raise UserError(f"{error}.") from None
    except SystemExit as stop:
        raise UserError(_sentence(stop.__context__, complaint.getvalue())) from None


def _sentence(error: BaseException | None, drawn: str) -> str:
    """What is wrong with the flags, out of tyro's own error, or of the box of several lines that it drew."""
    words = re.sub(r"[╭╮╰╯│┆]|\x1b\[[0-9;]*m", " ", drawn)
    words = re.sub(r"\s+", " ", words).split(" For full helptext")[0].strip()
    if error is None or not error.args:
        # Below the title and its rule.
        words = re.split(r"[-─]{5,} ?", words.rstrip("-─ "))[-1].rstrip(". ")
        return f"{words or 'the flags could not be understood'}: 'launch.py train --help' lists every flag."
    reason, parsed = str(error.args[0]).rstrip("."), re.search(r"Error parsing (--\S+):", words)
    if parsed is None:
        return f"{reason}."
    given = re.search(r"(?:base 10|to float): (.*)$", reason)
    kind = "whole number" if "int()" in reason else "number"
    return f"{parsed[1]} takes a {kind}, not {given[1]}." if given else f"{parsed[1]}: {reason}."


def _flags(cls: type, prefix: str) -> set[str]:
    """Every flag that tyro makes of a config class, booleans also in their --no- form."""
    hints = typing.get_type_hints(cls)
    flags: set[str] = set()
    for field in dataclasses.fields(cls):
        name = field.name.replace("_", "-")
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            flags |= _flags(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            flags.add(prefix + name)
            if hint is bool:
                flags.add(f"{prefix}no-{name}")
    return flags
