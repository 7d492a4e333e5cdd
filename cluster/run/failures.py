"""What processes said when they failed, whole, in the run's folder: ``failures/worker-0.txt`` and so on."""

from __future__ import annotations

import time
import traceback
from pathlib import Path

from cluster.run.messages import ProcessId

MAX_BYTES = 1_000_000
"""A file that has grown so far is added to no more: the first failures tell most."""
MAX_TEXT = 100_000
"""Characters of one failure."""


def failure_file(run_dir: Path, process: ProcessId) -> Path:
    """Where the failures of ``process`` are kept."""
    return run_dir / "failures" / f"{process[0]}-{process[1]}.txt"


def keep_failure(run_dir: Path, process: ProcessId, error: BaseException) -> None:
    """Append ``error`` with its traceback; a disk that is full costs the text, not the run."""
    path = failure_file(run_dir, process)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", errors="backslashreplace") as file:
            if file.tell() < MAX_BYTES:
                text = "".join(traceback.format_exception(error))[:MAX_TEXT]
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{text}\n")
    except OSError:
        pass
