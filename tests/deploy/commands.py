"""What the checks of deploy/ share: Ray's own command-line parsers, and those of `launch.py train`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
from ray.scripts.scripts import cli

from cluster.run.command_line import parse_train
from cluster.run.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
WRAPPER = "deploy/train_or_resume.sh"


def ray_problems(arguments: list[str]) -> list[str]:
    """What Ray's own parser has against ``ray ARGUMENTS``: an unknown command or option, a value of the wrong type."""
    command = cli.commands.get(arguments[0])
    if command is None:
        return [f"ray {arguments[0]}: no such command"]
    try:
        command.make_context(arguments[0], list(arguments[1:]))
    except click.UsageError as error:
        return [f"ray {arguments[0]}: {error.format_message()}"]
    return []


def train_problems(arguments: list[str]) -> list[str]:
    """What `launch.py train` would have against these flags."""
    try:
        parse_train(arguments)
    except UserError as error:
        return [str(error)]
    return []


def wrapped_train_problems(command: str) -> list[str]:
    """As `train_problems`, of a shell command that runs deploy/train_or_resume.sh."""
    if WRAPPER not in command:
        return [f"{WRAPPER} is not called: {command}"]
    after = re.split(r"[\"']?\s*(?:#|$)", command.split(WRAPPER, 1)[1].strip())[0]
    run_dir, *flags = shlex.split(after)
    return [f"{run_dir} is no run folder"] * run_dir.startswith("-") + train_problems(flags)


def header_commands(text: str, begins: str) -> list[str]:
    """Commands in a file's comments that begin with ``begins``, without what is said of them."""
    found = re.findall(rf"^#\s+({begins}\b.*)$", text, re.MULTILINE)
    return [re.split(r"\s{2,}# ", command)[0].strip() for command in found]
