"""Runs a controlled experiment: every variant with several seeds, each a training of its own; then writes the outcome.

    python -m results.random_coin [--quick] [--seeds N] [--jobs N] [--only PATTERN] [--fresh] [--plot-only] [--extend]

A training is ``launch.py train --serial`` on one core, or one of ``examples/``, so that its outcome depends on the seed
alone and as many run side by side as there are cores. Finished ones are kept in ``runs/results/<experiment>`` and not
repeated while flags and code stay the same: a stopped command goes on when it is given again. What comes out of them is
written to ``results/<experiment>``: curves.csv, summary.csv, config.json, run.json and figures. ``--extend`` keeps what
is written there of runs that are not here, so that seeds can be added later or on another machine. ``--quick`` shows
within minutes that everything works; what it writes stays in ``runs/``. The modules beside this one hold one experiment
each.
"""

from __future__ import annotations

import argparse
import fnmatch
import shlex
import sys
import time
from pathlib import Path

from cluster.plan.machine import usable_cores
from results.earlier import read_earlier
from results.experiment import Experiment, Outcome, plan
from results.record import write_outcome, write_run_record
from results.trainer import ROOT, code_digest, train


def main(experiment: Experiment, arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run the experiment's command; returns 0, 1 if runs failed or none is there, 2 if --only matches nothing.

    ``root`` is the folder that holds results/ and runs/.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(experiment, arguments)
    folder = Path("runs") / "results" / (experiment.name + ("-quick" if options.quick else ""))
    output = root / folder if options.quick else root / "results" / experiment.name
    runs = plan(experiment, options, root, folder)
    wanted = [run for run in runs if fnmatch.fnmatch(run.name, f"*{options.only}*")]
    if not wanted:
        print(f"--only {options.only} matches none of: {'; '.join(v.name for v in experiment.variants)}")
        return 2
    began, failed, todo = time.monotonic(), 0, []
    if not options.plot_only:
        code = code_digest(experiment.code)
        todo = [run for run in wanted if options.fresh or (run.finished() or {}).get("code") != code]
        print(f"{experiment.title}: {len(todo)} runs to make, {len(wanted) - len(todo)} are there", flush=True)
        failed = train(experiment, todo, options.jobs, root)
    finished = [run for run in runs if run.finished()]
    earlier = read_earlier(experiment, output, {run.key for run in finished}) if options.extend else None
    if earlier and earlier.other_flags:
        print(f"Left out, since they were trained or judged otherwise: {'; '.join(earlier.other_flags)}")
    outcome = Outcome(experiment, finished, earlier)
    missing = sum(run.key not in outcome.metrics for run in runs)
    if missing:
        print(f"{missing} of {len(runs)} runs are missing from the outcome")
    if not outcome.metrics:
        return 1
    write_outcome(outcome, output)
    # A command that made no run says nothing about how they were made.
    if todo or (options.extend and finished) or not (output / "run.json").exists():
        command = shlex.join(["python", "-m", f"results.{experiment.name}", *arguments])
        write_run_record(outcome, output / "run.json", command, (time.monotonic() - began) / 60)
    experiment.draw(outcome, output)
    print(f"Written to {output}")
    return 1 if failed else 0


def _parse(experiment: Experiment, arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(f"python -m results.{experiment.name}", description=experiment.title)
    parser.add_argument("--quick", action="store_true", help="few frames, one seed, into runs/: does it work at all?")
    parser.add_argument("--seeds", type=int, help=f"seeds per variant (default {experiment.seeds}; 1 with --quick)")
    jobs = 1 if experiment.whole_machine else usable_cores()
    parser.add_argument("--jobs", type=int, default=jobs, help=f"trainings at a time (default {jobs})")
    only = "runs whose name contains this, such as 'VARIANT, seed 2'; * and ? work"
    parser.add_argument("--only", default="", metavar="PATTERN", help=only)
    parser.add_argument("--fresh", action="store_true", help="make finished runs again")
    parser.add_argument("--plot-only", action="store_true", help="write the outcome of the runs that are there")
    keep = "keep what results/<experiment> tells of runs that are not here, if their flags are still the same"
    parser.add_argument("--extend", action="store_true", help=keep)
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or (1 if options.quick else experiment.seeds)
    if options.seeds < 1 or options.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")
    if options.quick and options.extend:
        parser.error("--extend keeps runs of full length: leave out --quick")
    return options


def run_as_command(experiment: Experiment) -> None:
    """`main` as the whole process."""
    sys.exit(main(experiment))
