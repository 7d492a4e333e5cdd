"""``launch.py report``: from run folders to one HTML file."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from cluster.commands.output_files import refuse_unwritable_file
from cluster.commands.report.page import page
from cluster.commands.report.runs import group, load_runs
from cluster.run.command_line import CommandParser
from cluster.run.errors import UserError
from cluster.telemetry.console import print_plan
from replay.whole_files import write_whole


def run(arguments: list[str]) -> int:
    """``launch.py report``; returns the exit code."""
    parser = CommandParser("launch.py report", description="Compare runs on one self-contained HTML page.")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, or folders that hold runs (a suite's)")
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="file to write (default report.html)")
    options = parser.parse_args(arguments)
    refuse_unwritable_file(options.output, "--output")
    write_report(options.runs, options.output, Console())
    return 0


def write_report(folders: list[Path], output: Path, console: Console) -> None:
    """Write the page and say what is in it."""
    runs = load_runs(folders)
    groups, settings = group(runs)
    try:
        write_whole(output, page(runs, groups, settings))
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror}): name another --output.") from None
    rows = []
    for one in groups:
        scores = one.scores
        score = f"score {scores.mean():,.4g}{one.mark}" if len(scores) else "no evaluation yet"
        rows.append((one.env, f"{one.label}: {len(one.runs)} run{'s' * (len(one.runs) > 1)}, {score}"))
    print_plan([*rows, ("page", str(output))], console, title="Report")
