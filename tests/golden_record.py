"""What short serial runs end in, to the last bit: a moved line must not change it, a seam only its last digits.

    python -m tests.golden_record write      # what the code of today ends in, into golden_record.json
    python -m tests.golden_record compare    # against that file: "same" or the largest relative difference

Sums in floating point differ between kinds of processors, so a record is compared on the kind that wrote it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from actors.environments.contract import frames_per_step
from cluster.plan.topology import plan_topology
from cluster.run.command_line import parse_train
from cluster.runtime.serial_fleet import SerialFleet
from cluster.runtime.services import sequence_spec
from cluster.runtime.supervisor import Supervisor

FILE = Path(__file__).with_suffix(".json")
LITTLE = (
    *("--network.torso-size", "32", "--network.lstm-size", "32", "--network.head-size", "32"),
    *("--cluster.lanes-per-worker", "4", "--learner.batch-size", "4", "--replay.min-sequences", "8"),
    *("--evaluation.episodes", "2", "--evaluation.period-env-frames", "500"),
)
SHORT = ("--sequence.trace-length", "16", "--sequence.replay-period", "8", "--actor.steps-per-request", "20")
CHAIN, GRID, PONG = "tests.fakes:Chain-v0", "Agent57/RandomCoin-v0", "ALE/Pong-v5"
PRESET_FLAGS = {
    "smoke": (),
    "small": (*LITTLE, "--evaluation.episodes", "2"),
    "laptop": (*LITTLE, *SHORT, "--replay.max-gb", "0.1"),
    "meme": (*LITTLE, *SHORT, "--replay.max-gb", "0.1", "--network.conv-filters", "8", "8", "8"),
    "paper": (*LITTLE, *SHORT, "--replay.max-gb", "0.1", "--network.conv-filters", "8", "8", "8"),
}
ENVIRONMENTS = {"smoke": (CHAIN, GRID, PONG), "small": (CHAIN, GRID), "laptop": (GRID, PONG), "paper": (CHAIN, PONG)}
TRACES = ("retrace", "peng", "soft_watkins")
ONE_NETWORK = ("--network.kind", "single", "--loss.burn-in", "4")
STEPS = 600
"""Environment steps of a run: dozens of updates, a round of evaluation, some ends of episodes."""


def runs() -> Iterator[tuple[str, list[str]]]:
    """(name, command line) of every run of the record."""
    for preset, environments in ENVIRONMENTS.items():
        for env in environments:
            for trace in TRACES:
                yield f"{preset}, {env}, {trace}", [*_flags(env, preset), "--loss.trace", trace]
    yield "paper, one network, burn-in", [*_flags(CHAIN, "paper"), *ONE_NETWORK]
    for env in (CHAIN, PONG):
        yield f"meme, {env}", _flags(env, "meme")
    for novelty in ("episodic", "lifelong", "recode"):
        yield f"small, novelty {novelty}", [*_flags(GRID, "small"), "--intrinsic.novelty", novelty]


def _flags(env: str, preset: str) -> list[str]:
    return ["--env", env, "--preset", preset, "--serial", "--seed", "3", *PRESET_FLAGS[preset]]


@dataclass
class Ending:
    """Of one run: ``weights``, ``priorities`` float arrays; ``replay`` and ``bandit`` what they hash to."""

    weights: np.ndarray
    priorities: np.ndarray
    replay: str
    bandit: str
    updates: int
    env_steps: int

    def as_row(self) -> dict[str, Any]:
        """Hashes for equality, a few numbers to measure a difference by."""
        shown = np.linspace(0, len(self.weights) - 1, 40).astype(int)
        return {
            "updates": self.updates,
            "env_steps": self.env_steps,
            "weights": _hash(self.weights),
            "some_weights": [float(value) for value in self.weights[shown]],
            "priorities": _hash(self.priorities),
            "some_priorities": [float(value) for value in self.priorities[:10]],
            "replay": self.replay,
            "bandit": self.bandit,
        }


def ending_of(arguments: list[str], run_dir: Path, updates: int | None = None) -> Ending:
    """Where the run of ``arguments`` ends, after `STEPS` environment steps or once ``updates`` updates are made."""
    config = parse_train([*arguments, "--run-dir", str(run_dir)]).config
    torch.manual_seed(0)
    fleet = SerialFleet(config)
    supervisor = Supervisor(
        config,
        plan_topology(config, sequence_spec(config)),
        fleet,
        run_dir,
        frames_per_step(config.env, config.environment),
    )
    run_dir.mkdir(exist_ok=True)

    def should_stop() -> bool:
        if supervisor.state.env_steps >= STEPS or (updates is not None and supervisor.state.learner_updates >= updates):
            supervisor.request_stop("recorded")
            return True
        return False

    supervisor._should_stop = should_stop  # type: ignore[method-assign]
    supervisor.telemetry._status._console = Console(file=io.StringIO())
    supervisor.run(None)
    replay = fleet._replay_memory
    stored = hashlib.sha256()
    for slot in replay._order:
        stored.update(replay._blobs[slot] or b"")
    return Ending(
        fleet._learner.learner.weights(),
        replay.priorities(),
        stored.hexdigest()[:16],
        _hash(np.concatenate([supervisor.meta_controller.counts, supervisor.meta_controller.means])),
        supervisor.state.learner_updates,
        supervisor.state.env_steps,
    )


def _hash(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


def machine() -> str:
    """The kind of processor and the libraries, as far as sums depend on them."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, torch {torch.__version__}"
    return f"{platform.machine()}, torch {torch.__version__}"


def record(only: str = "") -> dict[str, Any]:
    """Rows of all runs whose name contains ``only``."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, arguments) in enumerate(runs()):
            if only in name:
                one = [*arguments, "--cluster.updates-per-request", "1"]
                rows[f"{name}: 1 update"] = ending_of(one, Path(folder) / f"{number}-1", updates=1).as_row()
                rows[name] = ending_of(arguments, Path(folder) / str(number)).as_row()
    return {"machine": machine(), "runs": rows}


def difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """How two rows differ: "same", or by how much and in what."""
    parts = [name for name in one if one[name] != other[name]]
    if not parts:
        return "same"
    worst = 0.0
    for name in ("some_weights", "some_priorities"):
        a, b = np.array(one[name]), np.array(other[name])
        if a.shape == b.shape:
            worst = max(worst, float(np.max(np.abs(a - b) / np.maximum(np.abs(a).max(), 1e-12), initial=0.0)))
    return f"other {', '.join(name for name in parts if not name.startswith('some'))}; by {worst:.1e} of the largest"


def main(arguments: list[str]) -> int:
    if arguments == ["write"]:
        FILE.write_text(json.dumps(record(), indent=1) + "\n")
        return 0
    if arguments == ["compare"]:
        kept = json.loads(FILE.read_text())
        new = record()
        if kept["machine"] != new["machine"]:
            print(f"written on {kept['machine']}, this is {new['machine']}: bits may differ", file=sys.stderr)
        differs = False
        for name, row in new["runs"].items():
            told = difference(kept["runs"][name], row) if name in kept["runs"] else "not in the record"
            differs |= told != "same"
            print(f"{name:50} {told}")
        return int(differs)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
