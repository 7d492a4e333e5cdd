"""``launch.py doctor``: looks at the machine the way training will, and says what to mend.

Every check is a function that returns a `Check`; a check that fails to run is itself a finding. The readings that
containers distort (cores, memory) are functions of their own, for the planner to use as well.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.plan.machine import available_memory_bytes, usable_cores
from cluster.run.errors import counted

GB = 1e9
PYTHON_NEEDED = (3, 11)
RAY_SECONDS = 90
_PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
# Sockets are TMP/a57-XXXXXXXX/r/session_DATE_TIME_MICROSECONDS_PID/sockets/plasma_store: up to 79 characters after TMP.
_SOCKET_PATH_LIMIT, _RAY_SOCKET_SUFFIX = 107, 79
_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}

_RAY_PROBE = """
import os, sys
os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=100 * 1024**2,
         _temp_dir=sys.argv[1], log_to_driver=False, configure_logging=False)
assert ray.get(ray.remote(lambda: 57).remote(), timeout=60) == 57
ray.shutdown()
"""


@dataclass(frozen=True)
class Check:
    """One finding. ``problem`` prevents training, ``warning`` may slow or endanger it; both come with advice."""

    name: str
    status: Literal["ok", "warning", "problem"]
    detail: str
    advice: str = ""


def run(arguments: list[str]) -> int:
    """``launch.py doctor``: check this machine; returns 0, or 2 if something prevents training."""
    # Only now: the checks themselves need nothing that may be missing or broken.
    from cluster.run.command_line import CommandParser

    CommandParser("launch.py doctor", description="Check this machine.").parse_args(arguments)
    return run_doctor(Console())


def run_doctor(console: Console) -> int:
    """0 if training can start on this machine, 2 if a problem prevents it; prints one row per check."""
    found = []
    for check in CHECKS:
        with console.status(f"{check.__name__.removeprefix('check_').replace('_', ' ')} ..."):
            found.append(_run(check))
        _print_check(console, found[-1])
    problems = sum(check.status == "problem" for check in found)
    warnings = sum(check.status == "warning" for check in found)
    if problems:
        summary = f"{counted(problems, 'problem')} to mend before training can start."
    elif warnings:
        summary = f"Ready to train, with {counted(warnings, 'warning')}."
    else:
        summary = "All well: ready to train."
    console.print()
    console.print(Text(summary, style="bold red" if problems else "bold"))
    return 2 if problems else 0


def check_python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < PYTHON_NEEDED:
        return Check(
            "Python", "problem", version, "Python 3.11 or newer is needed: make a virtual environment with it."
        )
    return Check("Python", "ok", version)


def check_packages() -> Check:
    found, wrong = [], []
    for requirement, name, bounds in _requirements():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append((f"{name} is missing", requirement))
            continue
        found.append(f"{name} {version}")
        if not _satisfies(version, bounds):
            wrong.append((f"{name} is {version}, needed is {bounds}", requirement))
    if wrong:
        install = " ".join(f"'{requirement}'" for _, requirement in wrong)
        return Check("Packages", "problem", "; ".join(text for text, _ in wrong), f"pip install {install}")
    return Check("Packages", "ok", ", ".join(found))


def check_games() -> Check:
    import numpy as np
    from ale_py.roms import get_all_rom_ids, get_rom_path
    from ale_py.vector_env import AtariVectorEnv

    with contextlib.redirect_stdout(io.StringIO()):  # ale_py prints a line per game when ALE_ROMS_DIR is set
        games = [game for game in get_all_rom_ids() if _is_there(get_rom_path, game)]
    if "pong" not in games:
        advice = "Reinstall ale-py, whose wheels bring the games; if ALE_ROMS_DIR is set, unset it."
        return Check("Atari games", "problem", f"{len(games)} found, Pong not among them", advice)
    environment = AtariVectorEnv("pong", num_envs=1, num_threads=1)
    environment.reset(seed=0)
    observation = environment.step(np.zeros(1, np.int64))[0]
    environment.close()
    return Check("Atari games", "ok", f"{len(games)} found; Pong steps, observation {tuple(observation.shape[1:])}")


def check_devices() -> Check:
    import torch

    if not torch.cuda.is_available():
        if Path("/dev/nvidia0").exists():
            advice = "Install a CUDA build of torch (pytorch.org/get-started) and a driver that fits it."
            return Check("Devices", "warning", "a GPU is there but this torch cannot use it", advice)
        return Check("Devices", "ok", "CPU only")
    names = []
    for index in range(torch.cuda.device_count()):
        # Also finds a build of torch without kernels for this GPU.
        torch.ones(8, device=f"cuda:{index}").sum().item()
        free, total = torch.cuda.mem_get_info(index)
        names.append(f"{torch.cuda.get_device_name(index)} ({free / GB:.0f} of {total / GB:.0f} GB free)")
    return Check("Devices", "ok", ", ".join(names))


def check_cores() -> Check:
    usable, present = usable_cores(), os.cpu_count() or 1
    detail = f"{usable} usable" if usable == present else f"{usable} usable of {present}"
    if usable < 2:
        return Check("Cores", "warning", detail, "Training wants at least 2: acting and learning will take turns.")
    return Check("Cores", "ok", detail)


def check_memory() -> Check:
    available = available_memory_bytes()
    detail = f"{available / GB:.1f} GB available"
    if available < 1 * GB:
        return Check("Memory", "problem", detail, "Even the smallest run needs 1 GB: free some or raise the limit.")
    if available < 4 * GB:
        advice = "Enough for vectors and grids. For Atari lower --replay.max-gb and the number of workers."
        return Check("Memory", "warning", detail, advice)
    return Check("Memory", "ok", detail)


def check_shared_memory(path: Path = Path("/dev/shm")) -> Check:
    if not path.is_dir():
        return Check("Shared memory", "ok", f"no {path} on this system")
    usage = shutil.disk_usage(path)
    detail = f"{usage.free / GB:.2f} of {usage.total / GB:.2f} GB free in {path}"
    if usage.total < 1 * GB:
        advice = "Ray falls back to slow files on disk: start the container with --shm-size=4g (docker), or mount a "
        return Check("Shared memory", "warning", detail, advice + "memory emptyDir at /dev/shm (Kubernetes).")
    if usage.free < 1 * GB:
        return Check("Shared memory", "warning", detail, f"Stop what fills it, or remove stale files: ls -la {path}")
    return Check("Shared memory", "ok", detail)


def check_threads() -> Check:
    import torch

    cores, threads, setting = usable_cores(), torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    detail = f"torch uses {threads} here; OMP_NUM_THREADS is {setting or 'not set'}"
    if threads > cores or (setting and setting.isdecimal() and int(setting) > cores):
        advice = f"More threads than the {cores} usable cores slow every process down: export OMP_NUM_THREADS={cores}"
        return Check("Threads", "warning", detail, advice)
    return Check("Threads", "ok", detail)


def check_open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Ray raises the soft limit to the hard one by itself.
    limit = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    if hard != resource.RLIM_INFINITY and hard < 8192:
        advice = "Ray wants 8192 or more (65535 on large clusters): raise the hard limit of ulimit -n."
        return Check("Open files", "warning", f"at most {limit}", advice)
    return Check("Open files", "ok", f"{soft}, may be raised to {limit}" if soft != hard else f"{limit}")


def check_disk() -> Check:
    folder = Path.cwd()
    free = shutil.disk_usage(folder).free
    detail = f"{free / GB:.1f} GB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Check("Disk", "problem", f"{folder} is not writable", "Start from a folder you may write to.")
    if free < 1 * GB:
        return Check("Disk", "problem", detail, "Checkpoints will not fit: free some space or start elsewhere.")
    if free < 10 * GB:
        advice = "Checkpoints hold the replay contents too: lower --replay.max-gb or keep fewer of them."
        return Check("Disk", "warning", detail, advice)
    return Check("Disk", "ok", detail)


def check_temporary_folder() -> Check:
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if not Path(folder).is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return Check(
            "Temporary folder", "problem", f"{folder} is missing or not writable", "Set RAY_TMPDIR to one that is."
        )
    if len(folder) + _RAY_SOCKET_SUFFIX > _SOCKET_PATH_LIMIT:
        advice = f"Ray's sockets need a path of at most {_SOCKET_PATH_LIMIT - _RAY_SOCKET_SUFFIX} characters: "
        return Check("Temporary folder", "problem", f"{folder} is too long", advice + "export RAY_TMPDIR=/tmp")
    return Check("Temporary folder", "ok", folder)


def check_ray_address() -> Check:
    address = os.environ.get("RAY_ADDRESS")
    if address:
        advice = "It is ignored: training starts a private Ray on this machine. Unset it to avoid confusion."
        return Check("RAY_ADDRESS", "warning", address, advice)
    return Check("RAY_ADDRESS", "ok", "not set")


def check_ray() -> Check:
    """Starts and stops a private Ray in a process of its own; other Rays on this machine are left alone."""
    with tempfile.TemporaryDirectory(prefix="a57-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        probe = subprocess.Popen(
            [sys.executable, "-c", _RAY_PROBE, folder],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            _, errors = probe.communicate(timeout=RAY_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(probe.pid, signal.SIGKILL)
            probe.communicate()
            detail = f"did not start and run a task within {RAY_SECONDS} s"
            return Check("Ray", "problem", detail, "Look for a firewall on localhost, a full /tmp, or too few cores.")
    if probe.returncode != 0:
        last = errors.strip().splitlines()[-1:] or [f"exit code {probe.returncode}"]
        advice = "Mend the rows above; if none is wrong, reinstall it: pip install 'ray[default]'"
        return Check("Ray", "problem", f"does not start: {last[0]}", advice)
    return Check("Ray", "ok", "starts and runs a task")


CHECKS: tuple[Callable[[], Check], ...] = (
    check_python,
    check_packages,
    check_games,
    check_devices,
    check_cores,
    check_memory,
    check_shared_memory,
    check_threads,
    check_open_files,
    check_disk,
    check_temporary_folder,
    check_ray_address,
    check_ray,
)


def _requirements() -> Iterator[tuple[str, str, str]]:
    """(requirement, package, version bounds) of everything needed at run time."""
    if _PROJECT.exists():
        import tomllib  # absent before Python 3.11, which check_python must be able to say

        lines = tomllib.loads(_PROJECT.read_text())["project"]["dependencies"]
    else:
        lines = importlib.metadata.requires("agent57") or []
    for line in lines:
        match = re.fullmatch(r"([\w.-]+)(?:\[[^]]*\])?\s*([^;]*)", line)
        if match:
            yield line, match[1], match[2].strip()


def _satisfies(version: str, bounds: str) -> bool:
    """Whether a version such as "2.13.0+cpu" lies within bounds such as ">=2.10,<2.14"."""
    numbers = _numbers(version)
    for bound in filter(None, bounds.split(",")):
        wanted = _numbers(bound.strip("<>= "))
        if (bound.startswith(">=") and numbers < wanted) or (bound.startswith("<") and numbers >= wanted):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, leading[0].split("."))) if leading else ()


def _is_there(get_rom_path: Callable[[str], Path | None], game: str) -> bool:
    try:
        return get_rom_path(game) is not None
    except OSError:
        return False


def _run(check: Callable[[], Check]) -> Check:
    """The check's finding; if it cannot even run, that is the finding (a missing package, mostly)."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001
        name = check.__name__.removeprefix("check_").replace("_", " ").capitalize()
        detail = f"cannot be checked: {type(error).__name__}: {error}"
        return Check(name, "problem", detail, "Mend the rows above first; if none is wrong, report this line.")


def _print_check(console: Console, check: Check) -> None:
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(width=7)
    row.add_column(width=16)
    row.add_column(overflow="fold")
    row.add_row(Text(check.status, style=_STYLES[check.status]), Text(check.name), Text(check.detail))
    if check.advice:
        row.add_row("", "", Text(f"-> {check.advice}", style=_STYLES[check.status]))
    console.print(row)
