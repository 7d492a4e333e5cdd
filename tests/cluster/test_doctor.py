"""The doctor's findings under readings of machines we do not have."""

from __future__ import annotations

import io
import os
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.commands import doctor
from cluster.commands.doctor import Check
from cluster.plan import machine

GB = 10**9


def disk(total: float, free: float) -> Any:
    return lambda path: shutil._ntuple_diskusage(int(total * GB), int((total - free) * GB), int(free * GB))


def write(root: Path, path: str, content: object) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"{content}\n")


def test_this_machine_passes_the_quick_checks() -> None:
    for check in (doctor.check_python, doctor.check_packages, doctor.check_games, doctor.check_devices):
        assert check().status == "ok"


def test_old_python_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.sys, "version_info", (3, 10, 12, "final", 0))
    assert doctor.check_python().status == "problem"


def test_missing_and_old_packages_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "ale-py":
            raise doctor.importlib.metadata.PackageNotFoundError(name)
        return "1.26.4"

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    monkeypatch.setattr(
        doctor, "_requirements", lambda: [("ale-py>=0.11", "ale-py", ">=0.11"), ("numpy>=2", "numpy", ">=2")]
    )
    check = doctor.check_packages()
    assert check.status == "problem"
    assert check.detail == "ale-py is missing; numpy is 1.26.4, needed is >=2"
    assert check.advice == "pip install 'ale-py>=0.11' 'numpy>=2'"


def test_requirements_are_those_of_the_project() -> None:
    requirements = {name: (line, bounds) for line, name, bounds in doctor._requirements()}
    assert requirements["ray"] == ("ray[default]>=2.55,<3", ">=2.55,<3")
    assert {"torch", "gymnasium", "ale-py", "numpy", "tensorboard", "zstandard", "tyro", "rich"} <= set(requirements)


@pytest.mark.parametrize(
    ("version", "bounds", "expected"),
    [
        ("2.13.0+cpu", ">=2.10,<2.14", True),
        ("2.9.1", ">=2.10,<2.14", False),
        ("2.14.0", ">=2.10,<2.14", False),
        ("3", "<3", False),
        ("2", ">=2", True),
        ("3.0.0rc1", ">=2.55,<3", False),
        ("0.1", "", True),
    ],
)
def test_version_bounds(version: str, bounds: str, expected: bool) -> None:
    assert doctor._satisfies(version, bounds) is expected


def test_missing_games_are_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    check = doctor.check_games()
    assert check.status == "problem"
    assert "ALE_ROMS_DIR" in check.advice


def test_devices_are_listed_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"H{index}")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (70 * GB, 80 * GB))
    monkeypatch.setattr(torch, "ones", lambda size, device: torch.zeros(size))
    assert doctor.check_devices() == Check("Devices", "ok", "H0 (70 of 80 GB free), H1 (70 of 80 GB free)")


@pytest.mark.parametrize(
    ("version", "quota", "expected"),
    [(2, "max", 8), (2, 250_000, 2), (2, 50_000, 1), (1, -1, 8), (1, 300_000, 3)],
)
def test_usable_cores_respect_the_containers_quota(
    version: int, quota: object, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    if version == 2:
        write(tmp_path, "proc/self/cgroup", "0::/box/inner")
        write(tmp_path, "sys/fs/cgroup/box/cpu.max", f"{quota} 100000")  # a parent's quota counts as well
        write(tmp_path, "sys/fs/cgroup/box/inner/cpu.max", "max 100000")
    else:
        write(tmp_path, "proc/self/cgroup", "4:memory:/\n3:cpu:/box\n0::/")
        write(tmp_path, "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", quota)
        write(tmp_path, "sys/fs/cgroup/cpu/box/cpu.cfs_period_us", 100_000)
    assert machine.usable_cores(tmp_path) == expected


@pytest.mark.parametrize(
    ("version", "limit", "expected"),
    [(2, "max", 16 * 2**30), (2, 4 * 2**30, 3 * 2**30), (1, 2**63 - 4096, 16 * 2**30), (1, 2**29, 0)],
)
def test_available_memory_respects_the_containers_limit(
    version: int, limit: object, expected: int, tmp_path: Path
) -> None:
    write(tmp_path, "proc/meminfo", f"MemTotal: {64 * 2**20} kB\nMemAvailable: {16 * 2**20} kB")
    used, cache = 3 * 2**30, 2 * 2**30
    if version == 2:
        write(tmp_path, "proc/self/cgroup", "0::/")
        write(tmp_path, "sys/fs/cgroup/memory.max", limit)
        write(tmp_path, "sys/fs/cgroup/memory.current", used)
        write(tmp_path, "sys/fs/cgroup/memory.stat", f"anon 1\ninactive_file {cache}")
    else:
        write(tmp_path, "proc/self/cgroup", "4:memory:/on/the/host\n0::/")
        write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", limit)
        write(tmp_path, "sys/fs/cgroup/memory/memory.usage_in_bytes", used)
        write(tmp_path, "sys/fs/cgroup/memory/memory.stat", f"cache 1\ntotal_inactive_file {cache}")
        (tmp_path / "sys/fs/cgroup/memory/on/the").mkdir(parents=True)
    assert machine.available_memory_bytes(tmp_path) == expected


@pytest.mark.parametrize(("available", "status"), [(0.5, "problem"), (3, "warning"), (8, "ok")])
def test_memory(available: float, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_memory_bytes", lambda: available * GB)
    assert doctor.check_memory().status == status


@pytest.mark.parametrize(
    ("total", "free", "status", "advice"),
    [(0.064, 0.064, "warning", "--shm-size"), (24, 0.3, "warning", "stale files"), (24, 20, "ok", "")],
)
def test_shared_memory(
    total: float, free: float, status: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", disk(total, free))
    check = doctor.check_shared_memory(tmp_path)
    assert check.status == status
    assert advice in check.advice


@pytest.mark.parametrize(
    ("setting", "torch_threads", "status"),
    [(None, 4, "ok"), ("1", 1, "ok"), ("64", 1, "warning"), (None, 64, "warning"), ("odd", 4, "ok")],
)
def test_threads(setting: str | None, torch_threads: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(doctor, "usable_cores", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: torch_threads)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if setting:
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert doctor.check_threads().status == status


@pytest.mark.parametrize(("hard", "status"), [(4096, "warning"), (65_536, "ok"), (resource.RLIM_INFINITY, "ok")])
def test_open_files(hard: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, hard))
    assert doctor.check_open_files().status == status


@pytest.mark.parametrize(("free", "status"), [(0.2, "problem"), (5, "warning"), (50, "ok")])
def test_disk(free: float, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", disk(100, free))
    assert doctor.check_disk().status == status


def test_one_core_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "usable_cores", lambda: 1)
    assert doctor.check_cores().status == "warning"


def test_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)
    assert doctor.check_temporary_folder().status == "ok"
    deep = tmp_path / ("a" * 60)
    monkeypatch.setenv("TMPDIR", str(deep))
    assert "missing" in doctor.check_temporary_folder().detail
    deep.mkdir()
    assert "too long" in doctor.check_temporary_folder().detail
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert doctor.check_temporary_folder().status == "ok"


def test_ray_address_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert doctor.check_ray_address().status == "warning"
    monkeypatch.delenv("RAY_ADDRESS")
    assert doctor.check_ray_address().status == "ok"


def test_ray_that_hangs_or_fails_is_a_problem_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "RAY_SECONDS", 0.5)
    monkeypatch.setattr(doctor, "_RAY_PROBE", "import time; time.sleep(60)")
    assert "did not start" in doctor.check_ray().detail
    monkeypatch.setattr(doctor, "RAY_SECONDS", 30)
    monkeypatch.setattr(doctor, "_RAY_PROBE", "raise RuntimeError('no port is free')")
    assert doctor.check_ray().detail == "does not start: RuntimeError: no port is free"


@pytest.mark.ray
def test_ray_starts_here_even_with_an_address_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.255.255.1:6379")
    assert doctor.check_ray() == Check("Ray", "ok", "starts and runs a task")


def printed(monkeypatch: pytest.MonkeyPatch, *checks: Any) -> tuple[int, str]:
    monkeypatch.setattr(doctor, "CHECKS", checks)
    output = io.StringIO()
    return doctor.run_doctor(Console(file=output, width=80)), output.getvalue()


def test_exit_code_and_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_good() -> Check:
        return Check("Good", "ok", "fine [here]")

    def check_slow() -> Check:
        return Check("Slow", "warning", "slow", "buy another")

    def check_bad() -> Check:
        raise ImportError("No module named 'ray'")

    assert printed(monkeypatch, check_good)[0] == 0
    code, text = printed(monkeypatch, check_good, check_slow)
    assert code == 0
    assert "fine [here]" in text
    assert "-> buy another" in text
    assert "with 1 warning." in text
    code, text = printed(monkeypatch, check_bad, check_slow)
    assert code == 2
    assert "No module named 'ray'" in text
    assert "1 problem to mend" in text


def test_importing_the_doctor_needs_no_heavy_package() -> None:
    code = "import sys, cluster.commands.doctor; assert not {'torch', 'ray', 'ale_py', 'numpy'} & set(sys.modules)"
    subprocess.run([doctor.sys.executable, "-c", code], check=True, cwd=Path(doctor.__file__).resolve().parents[2])
