"""All speed figures of this machine in one table, each against a limit measured in the same run.

    python -m benchmarks [--short] [--json] [--only PART] [--check FILE] [--rivals FOLDER] [--long-run RUN_DIR]

Under ten minutes on two cores; ``--short`` takes one and leaves out what needs Ray. Every part is a program of its own
(`python -m benchmarks.acting` and so on) and runs by itself, one after the other, so the machine should do nothing
else. A part whose packages are missing here is named as not measured. ``--check FILE`` compares with the rows of an
earlier ``--json`` and fails (exit code 1) if a ratio has become worse by more than a quarter; each part is measured
until that is certain (`gate.py`). docs/performance.md explains the figures.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gate import judge
from benchmarks.measure import Figure, report

GRIDWORLD = ("--env", "Agent57/RandomCoin-v0", "--preset", "small", "--lanes", "64")


@dataclass(frozen=True)
class Part:
    """One program of the table: its module, its flags in full and in short, and the packages that it cannot do without.

    ``short`` None: not part of the short form. ``rows``: patterns of the names that the table shows, all by default.
    """

    name: str
    module: str
    flags: tuple[str, ...] = ()
    short: tuple[str, ...] | None = None
    needs: tuple[str, ...] = ()
    rows: tuple[str, ...] = ("*",)


ATARI = ("gymnasium", "ale_py")
MEMORIES = ("--memories", "10000", "30000")
SHORT_ACTING = ("--memories", "10000", "--entries", "50", "--repeats", "3")
SHORT_REPLAY = ("--fresh-steps", "3200", "--steps", "20000", "--repeats", "3")
PARTS = (
    Part("networks", "benchmarks.networks", ("--lanes", "1", "32", "128")),
    Part("learner", "benchmarks.learner", (), ("--repeats", "3")),
    Part("acting", "benchmarks.acting", MEMORIES, SHORT_ACTING, ATARI),
    Part(
        "gridworld",
        "benchmarks.acting",
        (*GRIDWORLD, "--target", ">= 0.7"),
        (*GRIDWORLD, "--target", ">= 0.7", "--entries", "100"),
        ("gymnasium",),
    ),
    Part("replay", "benchmarks.replay", (), SHORT_REPLAY, ATARI),
    Part("end-to-end", "benchmarks.end_to_end", needs=("ray", *ATARI)),
    Part("checkpoints", "benchmarks.checkpoints", needs=("ray", *ATARI)),
    Part(
        "scale",
        "benchmarks.scale",
        ("--lanes", "256", "--lanes-per-worker", "16", "--seconds", "15"),
        needs=("ray", *ATARI),
        rows=("256 lanes*: acting", "256 lanes*: supervisor's processor time", "256 lanes*: age of workers' weights"),
    ),
)
GPU_PARTS = (
    Part("gpu-networks", "benchmarks.networks", ("--device", "cuda", "--lanes", "128", "512", "2048")),
    Part(
        "gpu-learner",
        "benchmarks.learner",
        ("--device", "cuda", "--batch", "64", "--length", "160", "--target", ">= 0.9"),
    ),
)


def run_part(part: Part, flags: tuple[str, ...]) -> list[Figure]:
    """The part's rows, or one row that says why there are none."""
    missing = [package for package in part.needs if importlib.util.find_spec(package) is None]
    if missing:
        return [Figure(part.name, None, "", where=f"needs {', '.join(missing)}")]
    command = [sys.executable, "-m", part.module, *flags, "--json"]
    environment = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"} | os.environ
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [Figure(part.name, None, "", where=f"{part.module} failed: {last}")]
    rows = [Figure(**row) for row in json.loads(done.stdout)]
    return [row for row in rows if any(fnmatch.fnmatch(row.name, pattern) for pattern in part.rows)]


def long_run(run_dir: Path | None) -> list[Figure]:
    """Rows of `benchmarks.drift`."""
    if run_dir is None:
        return [Figure("long run", None, "", where="needs --long-run RUN_DIR, a run of half an hour or more")]
    return run_part(Part("long run", "benchmarks.drift"), (str(run_dir),))


def gpu_rows() -> list[Figure]:
    """What a GPU does, if there is one."""
    if not torch.cuda.is_available():
        return [Figure(part.name, None, "", where="no GPU here") for part in GPU_PARTS]
    return [row for part in GPU_PARTS for row in run_part(part, part.flags)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a minute: without end-to-end, scale and other replays")
    parser.add_argument("--json", action="store_true", help="a list of rows instead of the table")
    parser.add_argument("--only", default="*", metavar="PART", help="one of: " + ", ".join(p.name for p in PARTS))
    parser.add_argument("--check", type=Path, metavar="FILE", help="fail if a ratio is worse than in this JSON file")
    parser.add_argument("--rivals", metavar="FOLDER", help="compare with other replays, installed in this folder")
    parser.add_argument("--long-run", type=Path, metavar="RUN_DIR", help="a finished training of half an hour or more")
    options = parser.parse_args(arguments)
    parts = [part for part in PARTS if fnmatch.fnmatch(part.name, options.only)]
    if not parts:
        parser.error(f"no part is called {options.only}: use {', '.join(part.name for part in PARTS)}")
    if options.check is not None and not options.check.is_file():
        parser.error(f"{options.check} does not exist: write it with 'python -m benchmarks --json > {options.check}'")
    chosen = {part: part.short if options.short else part.flags for part in parts}
    rows: list[Figure] = []
    found: dict[Part, list[Figure]] = {}
    for part, flags in chosen.items():
        if flags is None:
            continue
        if part.name == "replay" and options.rivals:
            flags = (*flags, "--rivals", options.rivals)
        print(f"measuring: {part.name}", file=sys.stderr, flush=True)
        found[part] = run_part(part, flags)
        rows += found[part]
    if options.only == "*" and not options.short:
        rows += long_run(options.long_run) + gpu_rows()
    report(rows, options.json)
    if options.check is None:
        return 0
    committed = [Figure(**row) for row in json.loads(options.check.read_text())]
    sentences, count = [], 0
    for part, its_rows in found.items():
        # A part that breaks down is no slower, and must not pass for it.
        sentences += [row.where for row in its_rows if row.value is None and " failed: " in row.where]
        votes = judge(its_rows, functools.partial(_again, part, chosen[part] or ()), committed)
        sentences += [f"worse by more than a quarter: {each}" for each in votes.worse()]
        count += votes.compared
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    print(f"{count} ratios compared with {options.check}", file=sys.stderr)
    return 1 if sentences or not count else 0


def _again(part: Part, flags: tuple[str, ...]) -> list[Figure]:
    print(f"measuring again: {part.name}", file=sys.stderr, flush=True)
    return run_part(part, flags)


if __name__ == "__main__":
    sys.exit(main())
