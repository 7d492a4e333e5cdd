"""Other prioritized replays on the same sequences: cpprb, torchrl, dm-reverb.

    python -m benchmarks.replay --rivals runs/rivals

Each lives in a virtual environment of its own in that folder, made the first time: their dependencies (TensorFlow, a
certain torch) would not fit beside ours. The part that runs there is `benchmarks/rival_replay.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np

from agent57.structures import Sequence
from benchmarks.measure import Figure, against

RIVALS = {
    "cpprb": ["cpprb"],
    "torchrl": ["torch>=2.10,<2.14", "torchrl"],
    "dm-reverb": ["dm-reverb[tensorflow]"],
}
"""What pip installs for each."""
SCRIPT = Path(__file__).with_name("rival_replay.py")


def rival_figures(folder: Path, sequences: list[Sequence], our_speed: float, batch: int) -> list[Figure]:
    """A row per rival: ``our_speed`` in GB/s of observations as a ratio to what it delivers of the same sequences."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="a57-rivals-") as scratch:
        items = Path(scratch) / "sequences.npz"
        np.savez(items, **_stacked(sequences))  # type: ignore[arg-type]
        for name in RIVALS:
            label = f"replay, of {name}'s speed"
            try:
                speed = _ask(_environment(folder, name), name, items, batch)
            except (RuntimeError, OSError) as error:
                rows.append(Figure(label, None, "GB/s", target=">= 1", where=str(error)))
                continue
            rows.append(against(label, our_speed, "GB/s", speed, ">= 1"))
    return rows


def _stacked(sequences: list[Sequence]) -> dict[str, np.ndarray]:
    names = ("observations", "actions", "behaviour_probs", "extrinsic_rewards", "intrinsic_rewards", "recurrent_state")
    return {name: np.stack([getattr(sequence, name) for sequence in sequences]) for name in names}


def _environment(folder: Path, name: str) -> Path:
    """The interpreter of the rival's environment; RuntimeError if it cannot be made."""
    python = folder.absolute() / name / "bin" / "python"
    if not python.exists():
        print(f"installing {name} in {folder / name}", file=sys.stderr, flush=True)
        venv.create(folder / name, with_pip=True)
        made = subprocess.run([python, "-m", "pip", "install", "-q", *RIVALS[name]], capture_output=True, text=True)
        if made.returncode:
            raise RuntimeError(f"pip cannot install {name}: {made.stderr.strip().splitlines()[-1]}")
    return python


def _ask(python: Path, name: str, items: Path, batch: int) -> float:
    command = [str(python), str(SCRIPT), name, str(items), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
    return float(json.loads(done.stdout.splitlines()[-1])["gb_per_second"])
