"""How environments are made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from agent57.config import require
from agent57.ranges import Range, check_ranges


@dataclass(frozen=True)
class EnvironmentConfig:
    """How environments are made (Agent57 appendix). All but the last two fields concern Atari only."""

    full_action_set: bool = True
    """Atari: all 18 actions (9 in Skiing, whose emulator takes no more); otherwise the game's minimal set."""
    frame_skip: Annotated[int, Range(at_least=1, at_most=1000)] = 4
    """Atari: emulator frames per action; the observation is the maximum of the last two."""
    screen: Literal["84x84", "210x160"] = "84x84"
    """Atari: rows x columns of the grey frames that the agent sees. 210x160 shows every pixel of the game (the agents
    after Agent57, MEME among them); frames are then 4.8 times as large."""
    noop_max: Annotated[int, Range(at_least=0, at_most=10_000)] = 30
    """Atari: an episode begins with 0 to this many no-op frames, chosen at random."""
    max_frames: Annotated[int, Range(at_least=1, at_most=10**9)] = 108_000
    """Atari: emulator frames, no-ops apart, after which an episode is truncated (30 minutes of play)."""
    sticky_actions: Annotated[float, Range(at_least=0, below=1)] = 0.0
    """Atari: probability that the emulator repeats the previous action instead."""
    mode: Annotated[int | None, Range(at_least=0, at_most=255)] = None
    """Atari: variant of the game, where it has several; None is its default. This and difficulty take another
    path to the emulator: the same frames at nine tenths of the rate."""
    difficulty: Annotated[int | None, Range(at_least=0, at_most=255)] = None
    """Atari: position of the console's difficulty switch, where the game heeds it; None is its default."""
    max_episode_steps: Annotated[int | None, Range(at_least=1, at_most=10**9)] = None
    """Other environments: steps after which an episode is truncated; None keeps the registered limit."""
    arguments: tuple[str, ...] = ()
    """Other environments: keyword arguments as name=value, e.g. size=9 (value is read as JSON, else as a string)."""

    def __post_init__(self) -> None:
        check_ranges(self, "environment")

        keyword_arguments(self.arguments)

    @property
    def screen_size(self) -> tuple[int, int]:
        """(rows, columns) of ``screen``."""
        rows, columns = self.screen.split("x")
        return int(rows), int(columns)


def keyword_arguments(arguments: tuple[str, ...]) -> dict[str, Any]:
    """{"size": 9} of ("size=9",); raises ValueError for anything but distinct name=value entries."""
    values: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        require(bool(equals) and name.isidentifier(), f"environment.arguments are name=value, not {argument!r}")
        require(name not in values, f"environment.arguments gives {name} twice")
        require(
            name != "max_episode_steps", "environment.arguments is no place for it: environment.max-episode-steps is"
        )
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return values
