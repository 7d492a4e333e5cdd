"""``launch.py suite``: one training run per game and seed, one after another or side by side, resumable.

Each run is a ``launch.py train`` of its own in ``SUITE/GAME-seedN``, so one that breaks down takes no other with it.
Started again, the same command skips what is finished and goes on with the rest.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from actors.environments.atari.scores import RANDOM_AND_HUMAN_SCORES
from actors.environments.supported_spaces import UnsupportedEnvironment
from actors.environments.trial import try_environment
from cluster.commands.report.command import write_report
from cluster.commands.report.runs import load_runs
from cluster.commands.side_by_side import Ended, log_of, make_runs
from cluster.run.checkpoint import Checkpoints, frames_of
from cluster.run.command_line import CommandParser, parse_train, whole
from cluster.run.errors import UserError
from cluster.run.run_folder import owning
from cluster.telemetry.console import format_duration, print_plan, say
from replay.whole_files import write_whole

ATARI_57 = tuple(sorted(RANDOM_AND_HUMAN_SCORES))
ATARI_5 = ("battle_zone", "double_dunk", "name_this_game", "phoenix", "qbert")
"""The five games whose scores best predict the median over all 57 (Aitchison et al. 2022, arXiv:2210.02019)."""
HARD = ("freeway", "gravitar", "montezuma_revenge", "pitfall", "private_eye", "solaris", "venture")
"""Games that reward rarely and are hard to explore (Bellemare et al. 2016, arXiv:1606.01868, table 1)."""
SUITES = {"atari57": ATARI_57, "atari5": ATARI_5, "hard": HARD}
STATE_FILE = "suite.json"
LENGTH = "--max-env-frames"


@dataclass
class SuiteRun:
    """One run of a suite; ``state``: "waiting", "running", "finished", "stopped" (goes on next time) or "failed"."""

    env: str
    seed: int
    folder: Path
    state: str = "waiting"
    minutes: float = 0.0


def run(arguments: list[str]) -> int:
    """``launch.py suite``; returns 0, or 1 if a run broke down."""
    parser = CommandParser(
        "launch.py suite",
        description="Train on every game of a suite; flags that are not listed here go to each 'launch.py train'.",
        allow_abbrev=False,
    )
    parser.add_argument("suite", choices=sorted(SUITES), help="atari57; atari5 (a small sample); hard (exploration)")
    parser.add_argument(
        "--seeds", type=whole(1, 1000), default=1, help="runs per game, with seeds 0, 1, ... (default 1)"
    )
    parser.add_argument("--parallel", type=whole(1, 1000), default=1, help="runs side by side (default 1)")
    parser.add_argument("--folder", type=Path, default=None, help="where the runs go (default runs/SUITE-PRESET)")
    parser.add_argument("--games", nargs="+", default=None, help="only these games of the suite, such as qbert")
    options, flags = parser.parse_known_args(arguments)
    for flag in ("--env", "--seed", "--run-dir", "--resume"):
        if any(given.split("=")[0].replace("_", "-") == flag for given in flags):
            raise UserError(f"{flag} is decided by the suite: leave it out.")
    parsed = parse_train(flags)
    if not parsed.config.max_env_frames:
        raise UserError("--max-env-frames is needed: without it the suite's first run never ends.")
    games = _chosen(options.suite, options.games)
    try:
        try_environment(env_id(games[0]), parsed.config.environment)
    except UnsupportedEnvironment as error:
        raise UserError(str(error)) from None
    folder: Path = options.folder or Path("runs") / f"{options.suite}-{parsed.preset}"
    console = Console()
    with owning(folder, functools.partial(say, console)):
        suite = Suite(folder, games, options.seeds, flags, parsed.config.max_env_frames)
        print_plan(
            [
                ("suite", f"{options.suite}: {len(games)} games x {options.seeds} seeds, {options.parallel} at a time"),
                ("each run", f"{parsed.preset} preset, {parsed.config.max_env_frames:,} frames"),
                ("done", f"{sum(one.state == 'finished' for one in suite.runs)} of {len(suite.runs)}"),
                ("folder", str(folder)),
            ],
            console,
            title="Suite",
        )
        suite.run(options.parallel, console)
        return _summary(suite, console)


def _chosen(suite: str, games: Sequence[str] | None) -> tuple[str, ...]:
    for game in games or ():
        if game not in SUITES[suite]:
            raise UserError(f"--games: {game} is not in {suite}, which has {', '.join(SUITES[suite])}.")
    return tuple(dict.fromkeys(games)) if games else SUITES[suite]


def env_id(game: str) -> str:
    """Gymnasium id of a ROM name: ALE/NameThisGame-v5 of name_this_game."""
    return f"ALE/{''.join(part.capitalize() for part in game.split('_'))}-v5"


class Suite:
    """The runs of one suite folder and how far each has come, kept in ``suite.json``."""

    def __init__(self, folder: Path, games: Sequence[str], seeds: int, flags: list[str], max_env_frames: int) -> None:
        """UserError if ``folder`` holds a suite with other flags, or cannot be written."""
        self.folder, self.flags, self.max_env_frames = folder, flags, max_env_frames
        saved = self._load()
        before = saved.get("flags", flags)
        # A longer suite goes on with the shorter one's runs.
        if _without(before, LENGTH) != _without(flags, LENGTH):
            raise UserError(
                f"{folder} holds a suite that was started with other flags ({' '.join(before)}): name another --folder."
            )
        # Other games and seeds of an earlier call stay in the file.
        self._other = dict(saved.get("runs", {}))
        self.runs = [
            SuiteRun(env_id(game), seed, folder / f"{game}-seed{seed}") for game in games for seed in range(seeds)
        ]
        for one in self.runs:
            entry = self._other.pop(one.folder.name, {})
            one.minutes = entry.get("minutes", 0.0)
            one.state = "finished" if self._reached_its_end(one) else "waiting"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._save()
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror}): name another --folder.") from None

    def run(self, parallel: int, console: Console) -> None:
        """Make what is not finished, ``parallel`` at a time, until a signal says stop."""

        def begin(one: SuiteRun) -> list[str]:
            """Begin a run, or go on with it where a checkpoint of it is."""
            resumes = bool(Checkpoints(one.folder, 1).all())
            one.state = "running"
            self._save()
            say(console, f"{'resumed' if resumes else 'started'} {one.folder.name}, log in {log_of(one.folder)}")
            if resumes:
                return ["launch.py", "train", "--resume", str(one.folder), *_without(self.flags, "--preset")]
            target = ["launch.py", "train", "--run-dir", str(one.folder), *self.flags]
            return [*target, "--env", one.env, "--seed", str(one.seed)]

        def ended(one: SuiteRun, how: Ended) -> None:
            one.minutes += how.minutes
            if how.exit_code == 0:
                one.state = "finished" if self._reached_its_end(one) else "stopped"
            else:
                one.state = "stopped" if how.stopped else "failed"
            self._save()
            why = f", exit code {how.exit_code}: see its log" if one.state == "failed" else ""
            say(console, f"{one.state} {one.folder.name} after {format_duration(60 * how.minutes)}{why}")

        make_runs([one for one in self.runs if one.state != "finished"], parallel, begin, ended)

    def _reached_its_end(self, one: SuiteRun) -> bool:
        checkpoints = Checkpoints(one.folder, 1).all()
        return bool(checkpoints) and frames_of(checkpoints[-1]) >= self.max_env_frames

    def _load(self) -> dict[str, Any]:
        try:
            saved = json.loads((self.folder / STATE_FILE).read_text())
            flags, runs = saved["flags"], saved["runs"]
            if not all(isinstance(flag, str) for flag in flags) or not all("minutes" in runs[name] for name in runs):
                raise ValueError("it does not list flags and runs")
            return saved
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise UserError(f"{self.folder / STATE_FILE} cannot be read ({error}): name another --folder.") from None

    def _save(self) -> None:
        runs = {
            one.folder.name: {"env": one.env, "seed": one.seed, "state": one.state, "minutes": round(one.minutes, 2)}
            for one in self.runs
        }
        state = {"flags": self.flags, "runs": self._other | runs}
        write_whole(self.folder / STATE_FILE, json.dumps(state, indent=2) + "\n")


def _without(flags: list[str], name: str) -> list[str]:
    """``flags`` without ``name`` and its value."""
    kept, skip = [], False
    for flag in flags:
        if skip:
            skip = False
        elif flag == name:
            skip = True
        elif not flag.startswith(name + "="):
            kept.append(flag)
    return kept


def _summary(suite: Suite, console: Console) -> int:
    """Print every run's state and score, write the report; returns the exit code."""
    rows = []
    for one in suite.runs:
        score = ""
        if (one.folder / "config.json").exists():
            try:
                (record,) = load_runs([one.folder])
                if math.isfinite(record.score):
                    score = f", score {record.score:,.4g}{record.mark} ({record.human_normalised:.1%} of human)"
            except UserError:
                pass
        rows.append((one.folder.name, f"{one.state}{score}"))
    failed = [one for one in suite.runs if one.state == "failed"]
    unfinished = sum(one.state != "finished" for one in suite.runs)
    if unfinished:
        rows.append(("to go on", "the same command again"))
    print_plan(rows, console, title="Suite")
    try:
        write_report([suite.folder], suite.folder / "report.html", console)
    except UserError as error:
        say(console, f"No report: {error}")
    return 1 if failed else 0
