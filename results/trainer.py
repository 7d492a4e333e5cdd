"""Makes the runs of an experiment, several at a time, and says of each what it was made from and how long it took."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from cluster.telemetry.metrics import read_metrics
from results.experiment import FINISHED, Run

ROOT = Path(__file__).resolve().parent.parent
TRAINING_CODE = ("agent57", "replay", "actors", "learner", "cluster", "launch.py")
LOG_TAIL_LINES = 15


class Trainer:
    """Makes runs, several at a time, each in a process of its own whose output goes to ``<run folder>.log``."""

    def __init__(self, root: Path, keep_checkpoints: bool) -> None:
        self._root, self._keep_checkpoints = root, keep_checkpoints
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._stopping = threading.Event()

    def train(self, runs: Sequence[Run], jobs: int) -> int:
        """Make every run, whatever becomes of the others; returns how many succeeded. Prints a line for each.

        Whatever interrupts it (Ctrl-C) stops the trainings under way before it goes on.
        """
        succeeded = 0
        with ThreadPoolExecutor(jobs) as pool:
            futures = {pool.submit(self._train_one, run): run for run in runs}
            try:
                for done, future in enumerate(as_completed(futures), start=1):
                    run, (success, minutes) = futures[future], future.result()
                    succeeded += success
                    state = "finished" if success else "FAILED"
                    print(f"{run.name}: {state} after {minutes:.1f} minutes, {len(runs) - done} to go", flush=True)
                    if not success:
                        print(_log_tail(run), flush=True)
            except BaseException:
                self._stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(self._processes):
                    process.terminate()
                raise
        return succeeded

    def _train_one(self, run: Run) -> tuple[bool, float]:
        """(whether the run reached its last frame, minutes of wall time)."""
        began = time.monotonic()
        # What an interrupted run or one with other flags left there cannot be continued; what is no run stays.
        if (run.folder / "config.json").exists():
            shutil.rmtree(run.folder, ignore_errors=True)
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        record = {"arguments": run.arguments, "code": code_digest(), **git_state(), "date": time.strftime("%Y-%m-%d")}
        command = [sys.executable, str(ROOT / "launch.py"), *run.arguments]
        with _log_path(run).open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self._root,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            self._processes.add(process)
            if self._stopping.is_set():
                process.terminate()
            core_minutes = _wait(process)
            success = process.returncode == 0 and _reached_its_end(run.folder)
            self._processes.discard(process)
        minutes = (time.monotonic() - began) / 60
        if success:
            if not self._keep_checkpoints:
                shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
            record["minutes"] = round(minutes, 2)
            if "--serial" in run.arguments:
                # Ray's processes belong to nobody who could tell what they took.
                record["core_minutes"] = round(core_minutes, 2)
            (run.folder / FINISHED).write_text(json.dumps(record, indent=2) + "\n")
        return success, minutes


def _wait(process: subprocess.Popen[bytes]) -> float:
    """Minutes of processor time that the process and its children took, however long they had to wait for it."""
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except ChildProcessError:
        # Somebody who terminated it has asked for its state in between.
        process.wait()
        return 0.0
    process.returncode = os.waitstatus_to_exitcode(status)
    return (usage.ru_utime + usage.ru_stime) / 60


def _reached_its_end(run_dir: Path) -> bool:
    """Whether the last logged frame or minute is the last one wanted: one that a signal stops exits with 0, too."""
    try:
        config = json.loads((run_dir / "config.json").read_text())
        logged = read_metrics(run_dir).values()
    except FileNotFoundError:
        return False
    frames = max((int(series.env_frames[-1]) for series in logged), default=0)
    minutes = max((float(series.minutes[-1]) for series in logged), default=0.0)
    if config.get("max_minutes") and minutes >= config["max_minutes"] - config["log_seconds"] / 60:
        return True
    return bool(config["max_env_frames"]) and frames >= config["max_env_frames"]


def _log_path(run: Run) -> Path:
    return run.folder.with_name(run.folder.name + ".log")


def _log_tail(run: Run) -> str:
    lines = _log_path(run).read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return "\n".join(f"    | {line}" for line in lines)


def code_digest() -> str:
    """A short checksum of the code that trainings consist of, committed or not."""
    digest = hashlib.sha256()
    for name in TRAINING_CODE:
        path = ROOT / name
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(str(source.relative_to(ROOT)).encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def git_state() -> dict[str, Any]:
    """The commit, and whether the training code differs from it ("dirty"); both None outside a git checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", *TRAINING_CODE))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
