"""Makes the runs of an experiment, and says of each what it was made from and how long it took."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.commands.side_by_side import Ended, log_of, make_runs
from cluster.telemetry.metrics import reached, read_metrics
from results.experiment import EXAMPLE_CURVES, FINISHED, Experiment, Run

ROOT = Path(__file__).resolve().parent.parent
LOG_TAIL_LINES = 15


def train(experiment: Experiment, runs: Sequence[Run], jobs: int, root: Path) -> int:
    """Make every run, ``jobs`` at a time; returns how many failed. Prints a line for each.

    A signal stops the trainings under way, and then the whole command: SystemExit.
    """
    records: dict[str, dict[str, Any]] = {}
    successes: list[bool] = []

    def begin(run: Run) -> Sequence[str]:
        # What an interrupted run or one with other flags left there cannot be continued; what is no run stays.
        if any(run.folder.glob("config.json")) or any(run.folder.glob("events.*")):
            shutil.rmtree(run.folder, ignore_errors=True)
        log_of(run.folder).unlink(missing_ok=True)
        made_from = {"code": code_digest(experiment.code), **git_state(experiment.code)}
        records[run.name] = {"arguments": run.arguments, **made_from, "date": time.strftime("%Y-%m-%d")}
        return run.arguments

    def ended(run: Run, how: Ended) -> None:
        success = how.exit_code == 0 and _reached_its_end(run.folder)
        state = "finished" if success else "stopped" if how.stopped else "FAILED"
        successes.append(success)
        to_go = len(runs) - len(successes)
        print(f"{run.name}: {state} after {how.minutes:.1f} minutes, {to_go} to go", flush=True)
        if not success:
            lines = [] if how.stopped else log_of(run.folder).read_text(errors="replace").splitlines()
            print("".join(f"    | {line}\n" for line in lines[-LOG_TAIL_LINES:]), end="", flush=True)
            return
        if not experiment.keep_checkpoints:
            shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
        record = records[run.name] | {"minutes": round(how.minutes, 2)}
        if not experiment.whole_machine:
            # Ray's processes belong to nobody who could tell what they took.
            record["core_minutes"] = round(how.core_minutes, 2)
        (run.folder / FINISHED).write_text(json.dumps(record, indent=2) + "\n")

    if stopped := make_runs(runs, jobs, begin, ended, cwd=root, OMP_NUM_THREADS="1"):
        sys.exit(128 + stopped)
    return successes.count(False)


def _reached_its_end(run_dir: Path) -> bool:
    """Whether the last logged frame or minute is the last one wanted: one that a signal stops exits with 0, too."""
    if (run_dir / EXAMPLE_CURVES).exists():
        return True
    try:
        config = json.loads((run_dir / "config.json").read_text())
        frames, minutes = reached(read_metrics(run_dir))
    except FileNotFoundError:
        return False
    if config.get("max_minutes") and minutes >= config["max_minutes"] - config["log_seconds"] / 60:
        return True
    return bool(config["max_env_frames"]) and frames >= config["max_env_frames"]


def code_digest(code: Sequence[str]) -> str:
    """A short checksum of the code that trainings consist of, committed or not."""
    digest = hashlib.sha256()
    for name in code:
        path = ROOT / name
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(str(source.relative_to(ROOT)).encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def git_state(code: Sequence[str]) -> dict[str, Any]:
    """The commit, and whether the training code differs from it ("dirty"); both None outside a git checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", *code))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
