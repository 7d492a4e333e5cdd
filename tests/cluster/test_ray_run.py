"""The run as Ray processes: it trains from the command line, survives kill -9, and stops cleanly."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from actors.environments.contract import EnvironmentConfig
from cluster.on_ray.processes import descendants
from cluster.run.checkpoint import Checkpoints, load_tree
from cluster.run.config import ClusterConfig
from cluster.run.errors import TrainingStopped
from cluster.telemetry.metrics import read_metrics
from tests.cluster.running import Run
from tests.cluster.tiny import tiny_config

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ClusterConfig(num_workers=2, lanes_per_worker=4, object_store_gb=0.1, updates_per_request=5)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_a_crash_loop_stops_the_run_with_the_first_cause(run_dir: Path) -> None:
    cluster = dataclasses.replace(CLUSTER, num_workers=1, max_restarts=1)
    environment = EnvironmentConfig(arguments=("fault=raise",))
    config = tiny_config(serial=False, cluster=cluster, env="tests.hostile_environments:Hostile-v0")
    run = Run(dataclasses.replace(config, environment=environment), run_dir)
    try:
        assert isinstance(run.wait_for_end(), TrainingStopped)
        assert "worker 0 failed 2 times" in str(run.error)
        assert "RuntimeError: the emulator tripped over a cable; it was the red one" in str(run.error)
        assert "failures/worker-0.txt" in str(run.error)
        # Whole: where it happened, and what the process and its libraries printed.
        failures = (run_dir / "failures" / "worker-0.txt").read_text()
        assert failures.count('hostile_environments.py", line') >= 2
        assert failures.count("it was the red one") >= 2
        printed = (run_dir / "logs" / "worker-0.txt").read_text()
        assert printed.count("the emulator looks down") == printed.count("and its library, in C") == 2
        assert printed.count("--- process") == 2
    finally:
        run.stop()


def launch(*arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "launch.py", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def test_sigterm_checkpoints_and_resume_goes_on(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line on a real game: plan, learning, SIGTERM, checkpoint, resume, evaluation."""
    # Short, as Ray's sockets need.
    ray_folder = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(ray_folder))
    flags = ["--env", "ALE/Pong-v5", "--preset", "smoke", "--run-dir", str(run_dir)]
    process = launch("train", *flags, "--evaluation.period-env-frames", "0")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not updates(run_dir) > 5:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.5)
    assert_closed(process.pid, ray_folder)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    assert "run folder" in output
    assert "SIGTERM" in output
    directory = Checkpoints(run_dir, 2).latest_or_error(pytest.fail)
    before = load_tree(directory, "supervisor")

    resumed = launch("train", "--resume", str(run_dir), "--max-env-frames", str(before["env_steps"] * 4 + 2000))
    output = resumed.communicate(timeout=120)[0]
    assert resumed.returncode == 0, output
    after = load_tree(Checkpoints(run_dir, 2).latest_or_error(pytest.fail), "supervisor")
    assert after["env_steps"] > before["env_steps"]
    assert after["learner_updates"] >= before["learner_updates"] > 0

    flags = ["--episodes", "1", "--lanes", "1", "--policy-index", "0"]
    scored = launch("eval", str(run_dir), *flags)
    output = scored.communicate(timeout=200)[0]
    assert scored.returncode == 0, output
    assert "human-normalised" in output
    # Empty again: rmdir refuses else.
    ray_folder.rmdir()


def assert_closed(pid: int, ray_folder: Path) -> None:
    """Every process of the run listens to this machine alone, and no other user can look into Ray's folder."""
    addresses = listening({pid, *descendants([pid])})
    assert len(addresses) > 5
    loopback = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
    assert {address for address in addresses if address not in loopback} == set()
    (folder,) = ray_folder.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


def listening(pids: set[int]) -> list[str]:
    """The addresses, in the kernel's hexadecimal, of the TCP sockets on which ``pids`` listen."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # listening
                sockets[f"socket:[{fields[9]}]"] = fields[1].split(":")[0]
    opened = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                opened.add(os.readlink(descriptor))
    return [address for name, address in sockets.items() if name in opened]


def updates(run_dir: Path) -> float:
    if not (run_dir / "metrics.jsonl").exists():
        return 0.0
    series = read_metrics(run_dir).get("rate/learner_updates")
    return float(series.values[-1]) if series is not None else 0.0
