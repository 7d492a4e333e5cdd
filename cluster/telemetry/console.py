"""What a person at the terminal sees: the plan before a run, then its status, with notes above it.

On a terminal the status is a small panel redrawn in place; piped into a file it is a plain line now and then.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType

from rich import box
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cluster.telemetry.score import Score

REDRAW_SECONDS = 0.25
PLAIN_LINE_SECONDS = 10.0


@dataclass(frozen=True)
class StatusFields:
    """The numbers of one moment; None where a number is not known yet."""

    elapsed_seconds: float
    env_frames: int
    env_frames_wanted: int | None
    """Frames at which the run ends; None for a run without such an end."""
    seconds_wanted: float | None
    """Seconds after which the run ends, if its frames were not reached before; None for no such limit."""
    env_frames_per_second: float
    learner_updates: int
    updates_per_second: float
    replay_steps: int
    replay_bytes: int
    replay_limit_bytes: int
    replay_ratio: float | None
    """Transitions trained per environment step, so far."""
    replay_ratio_wanted: float
    score: Score | None
    """The evaluator's mean return."""
    training_return: float | None
    """Mean return of recent training episodes, over all arms and epsilons."""
    arm: int | None
    """The arm most in favour with the bandits, and its policy's beta and gamma."""
    arm_beta: float | None
    arm_gamma: float | None
    restarts: int
    """Processes restarted since the run began."""


class StatusLine:
    """The status of a run, kept up to date on ``console``; use it in a ``with`` statement or call `close`.

    ``live`` None means: a panel on a terminal, plain lines elsewhere. While a panel is shown, anything printed
    to stdout or stderr appears above it.
    """

    def __init__(self, console: Console | None = None, live: bool | None = None) -> None:
        self._console = console if console is not None else Console()
        if live is None:
            # FORCE_COLOR, usual in continuous integration, makes rich take any file for a terminal.
            live = self._console.is_terminal and not self._console.is_dumb_terminal and self._console.file.isatty()
        self._live = Live(console=self._console, auto_refresh=False) if live else None
        self._drawn_at = float("-inf")
        self._latest: StatusFields | None = None

    @property
    def due(self) -> bool:
        """Whether `update` would draw now; until then fields need not be gathered."""
        return time.monotonic() - self._drawn_at >= (REDRAW_SECONDS if self._live else PLAIN_LINE_SECONDS)

    def update(self, fields: StatusFields) -> None:
        """Show ``fields``, at once if that is due, else when the line is closed."""
        self._latest = fields
        if self.due:
            self._drawn_at = time.monotonic()
            self._draw()
            self._latest = None

    def note(self, message: str) -> None:
        """Print a line of its own, with the time of day: a warning, a restart, a checkpoint."""
        line = Text.assemble((time.strftime("%H:%M:%S "), "dim" if self._live else ""), message)
        self._console.print(line, soft_wrap=self._live is None, highlight=False)

    def close(self) -> None:
        """Draw the last fields, unless that was done, and give the terminal back; harmless when called twice."""
        if self._latest is not None:
            self._draw()
            self._latest = None
        if self._live:
            self._live.stop()

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _draw(self) -> None:
        assert self._latest is not None
        if self._live is None:
            self._console.print(Text(status_text(self._latest)), soft_wrap=True, highlight=False)
            return
        if not self._live.is_started:
            self._live.start()
        self._live.update(status_panel(self._latest, self._console.width), refresh=True)


def status_text(fields: StatusFields) -> str:
    """The status in one line without control characters."""
    title, cells = _describe(fields)
    return "  ".join([title, *(f"{name} {value}" for row in cells for name, value in row)])


def status_panel(fields: StatusFields, width: int) -> Panel | Text:
    """The status as a panel of three lines; on terminals narrower than 80 columns as wrapped text."""
    if width < 80:
        return Text(status_text(fields))
    title, cells = _describe(fields)
    # At 80 columns everything just fits; fixed widths keep the columns still while the numbers change.
    gap = 1 if width < 90 else 3
    grid = Table.grid(padding=0)
    for label_width, value_width in ((7, 19), (12, 9), (12, 11)):
        grid.add_column(style="dim", width=label_width + 1, no_wrap=True)
        grid.add_column(min_width=value_width + gap, no_wrap=True)
    for row in cells:
        grid.add_row(*(Text(text) for cell in row for text in cell))
    return Panel(
        grid,
        title=Text.assemble(("Agent57", "bold"), "  ", title),
        title_align="left",
        border_style="yellow" if fields.restarts else "cyan",
        width=min(width, 80 if gap == 1 else 90),
    )


def say(console: Console, message: str) -> None:
    """Print ``message`` as it is: what is in brackets, as in a path, is no markup, and nothing is wrapped."""
    console.print(Text(message), soft_wrap=True, highlight=False)


def print_plan(rows: list[tuple[str, str]], console: Console | None = None, title: str = "Plan") -> None:
    """Print (name, description) rows: what a run is about to start, or what came of it."""
    console = console if console is not None else Console()
    if not console.is_terminal:
        name_width = max((len(name) for name, _ in rows), default=0)
        for name, description in rows:
            console.print(Text(f"{name:<{name_width}}  {description}"), soft_wrap=True, highlight=False)
        return
    table = Table(box=box.ROUNDED, show_header=False, border_style="cyan", title=title, title_justify="left")
    table.title_style = "bold"
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, description in rows:
        table.add_row(Text(name), Text(description))
    console.print(table)


def _describe(fields: StatusFields) -> tuple[str, list[list[tuple[str, str]]]]:
    """(title, three rows of three (name, value) cells); columns: progress, returns, health."""
    frames = f"{format_count(fields.env_frames)} ({format_count(fields.env_frames_per_second)}/s)"
    updates = f"{format_count(fields.learner_updates)} ({fields.updates_per_second:.1f}/s)"
    replay = f"{format_count(fields.replay_steps)} ({_gigabytes(fields.replay_bytes)}/"
    replay += f"{_gigabytes(fields.replay_limit_bytes)}GB)"
    ratio = f"{_number(fields.replay_ratio, '.2f')} / {fields.replay_ratio_wanted:.2f}"
    # Without the leading 0, a small beta just fits.
    policy = f"{_number(fields.arm_beta, '.1g').replace('0.', '.')}, {_number(fields.arm_gamma, '.4f')}"
    arm = "-" if fields.arm is None else str(fields.arm)
    return _progress(fields), [
        [("frames", frames), ("score", "-" if fields.score is None else fields.score.text()), ("replay ratio", ratio)],
        [
            ("updates", updates),
            ("train return", _number(fields.training_return, ",.1f")),
            ("restarts", str(fields.restarts)),
        ],
        [("replay", replay), ("arm", arm), ("beta, gamma", policy)],
    ]


def _progress(fields: StatusFields) -> str:
    """Elapsed time; for a run with an end also the share done and the time left, by the limit that comes first."""
    text, done, left = format_duration(fields.elapsed_seconds), [], []
    if fields.env_frames_wanted:
        done.append(fields.env_frames / fields.env_frames_wanted)
        if fields.env_frames_per_second > 0:
            left.append((fields.env_frames_wanted - fields.env_frames) / fields.env_frames_per_second)
    if fields.seconds_wanted:
        done.append(fields.elapsed_seconds / fields.seconds_wanted)
        left.append(fields.seconds_wanted - fields.elapsed_seconds)
    if done:
        text += f"  {100 * max(done):.1f}%"
    if left and min(left) > 0:
        text += f"  {format_duration(min(left))} left"
    return text


def format_duration(seconds: float) -> str:
    """h:mm:ss, with days in front when there are any."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hour}:{minute:02d}:{second:02d}"


def format_count(number: float) -> str:
    """Three significant digits: 950, 12.3k, 1.25M, 10.0G."""
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * unit:
            scaled = number / unit
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{suffix}"
    return f"{number:.0f}"


def _gigabytes(size: int) -> str:
    gigabytes = size / 1e9
    return f"{gigabytes:.2f}" if gigabytes < 10 else f"{gigabytes:.0f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
