"""``launch.py train``."""

from __future__ import annotations

from cluster.run.command_line import parse_train


def run(arguments: list[str]) -> int:
    """Train as the flags say; returns the exit code."""
    parsed = parse_train(arguments)
    # Only now: it takes longer to import than --help takes.
    from cluster.commands.train import train

    return train(parsed.config, parsed.preset, parsed.resume)
