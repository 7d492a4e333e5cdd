"""Who may import whom: the layers of the design, read off every source file's imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# For each package: what it may import beside itself and the standard library. A dotted name allows that module only.
ALLOWED = {
    "agent57": {"numpy", "torch"},
    "replay": {"numpy", "zstandard", "agent57.structures", "agent57.config", "agent57.ranges"},
    "actors": {"numpy", "torch", "gymnasium", "ale_py", "minigrid", "safetensors", "agent57", "replay.whole_files"},
    "learner": {"numpy", "torch", "agent57"},
}
# `agent57.load_policy` is a promise to users; it reads files, so it lives above. The one import upwards there is.
FRONT_DOOR = ("agent57/__init__.py", "actors.exported_policy.load_policy")
# Rooms of cluster/, from the lowest to the highest: each may import those before it.
ROOMS = ("run", "plan", "telemetry", "runtime", "on_ray", "commands")
TENSORBOARD = {"tensorboard", "tensorboardX", "torch.utils.tensorboard"}
# The algorithm has no files, threads, processes, clocks, environment variables, hidden seeds or late imports.
IMPURE = {
    *("asyncio", "concurrent", "multiprocessing", "queue", "signal", "select", "selectors", "subprocess", "threading"),
    *("atexit", "builtins", "ctypes", "importlib", "_thread"),
    *("datetime", "platform", "resource", "sched", "time", "uuid", "secrets", "random"),
    *("fcntl", "fileinput", "glob", "io", "logging", "mmap", "os", "pathlib", "shutil", "sqlite3", "sys", "tempfile"),
    *("socket", "urllib"),
}
PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
PROJECT = {"agent57", "replay", "actors", "learner", "cluster", "launch"}


def within(module: str, allowed: str) -> bool:
    return module == allowed or module.startswith(allowed + ".")


def imported_modules(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import; ``from a import b`` yields a.b, which is how a submodule arrives."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, [package if node.level else "", node.module]))
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def may_import(package: str, module: str) -> bool:
    top = module.split(".")[0]
    return top == package or top in sys.stdlib_module_names or any(within(module, name) for name in ALLOWED[package])


def violations(source: str, package: str, path: str = "") -> list[str]:
    """What ``source``, a file of ``package`` ("launch" for the launcher), imports or calls against the rules."""
    tree = ast.parse(source)
    found = []
    room = path.split("/")[1] if path.startswith("cluster/") else ""
    for line, module in imported_modules(tree, package):
        top = module.split(".")[0]
        if (path, module) == FRONT_DOOR:
            continue
        if top in PICKLES:
            found.append(f"line {line}: {module}: pickles run code when loaded")
        if room != "on_ray" and top == "ray":
            found.append(f"line {line}: {module}: only cluster/on_ray/ knows it")
        if room != "telemetry" and any(within(module, name) for name in TENSORBOARD):
            found.append(f"line {line}: {module}: only cluster/telemetry/ knows it")
        if top == "matplotlib" and not path.startswith("cluster/commands/report/"):
            found.append(f"line {line}: {module}: takes a while to import, and only the report draws with it")
        if top == "cluster" and room in ROOMS and module.split(".")[1] not in ROOMS[: ROOMS.index(room) + 1]:
            found.append(f"line {line}: {module}: above cluster/{room}/")
        if package == "launch" and top in PROJECT - {"launch", "cluster"}:
            found.append(f"line {line}: {module}: launch.py knows cluster/ only")
        if package == "cluster" and top == "launch":
            found.append(f"line {line}: {module}: imports go downwards only")
        if package == "agent57" and top in IMPURE:
            found.append(f"line {line}: {module}: the algorithm has no outside world")
        if package in ALLOWED and not may_import(package, module):
            found.append(f"line {line}: {module}: not for {package}/")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += [f"line {node.lineno}: {reason}" for reason in forbidden_call(node, package)]
    return found


def forbidden_call(node: ast.Call, package: str) -> Iterator[str]:
    called = ast.unparse(node.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if called == "torch.load" and keywords.get("weights_only") != "True":
        yield "torch.load without weights_only=True unpickles"
    if called in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False":
        yield "numpy.load with allow_pickle unpickles"
    if package == "agent57" and called in ("open", "__import__", "exec", "eval", "torch.save", "torch.load"):
        yield f"{called}: the algorithm has no outside world"


def sources() -> list[tuple[str, Path]]:
    packages = ["agent57", "replay", "actors", "learner", "cluster"]
    found = [(package, path) for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    return [*found, *[("launch", path) for path in [ROOT / "launch.py"] if path.exists()]]


@pytest.mark.parametrize(
    ("package", "path"), [pytest.param(*entry, id=str(entry[1].relative_to(ROOT))) for entry in sources()]
)
def test_imports_go_downwards_only(package: str, path: Path) -> None:
    assert violations(path.read_text(), package, path.relative_to(ROOT).as_posix()) == []


def test_the_algorithm_is_imported_alone() -> None:
    """`agent57.load_policy` arrives when it is asked for, and only then what it needs."""
    code = (
        "import sys, agent57; print('actors' in sys.modules, 'gymnasium' in sys.modules, callable(agent57.load_policy))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert shown.split() == ["False", "False", "True"]
    outside = "from actors.exported_policy import load_policy"
    assert violations(outside, "agent57", "agent57/bandit.py") != []
    assert violations(outside, "agent57", FRONT_DOOR[0]) == []


def test_the_algorithm_was_found() -> None:
    """An empty list of files would pass every rule."""
    assert {"structures.py", "traces.py", "bandit.py"} <= {path.name for package, path in sources()}


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("agent57", "import os"),
        ("agent57", "def f():\n    from threading import Lock"),
        ("agent57", "from time import time"),
        ("agent57", "from pathlib import Path"),
        ("agent57", "import gymnasium"),
        ("agent57", "import ray"),
        ("agent57", "import replay.codec"),
        ("agent57", "open('file')"),
        ("replay", "import torch"),
        ("replay", "from agent57 import networks"),
        ("replay", "from agent57.errors import sequence_priorities"),
        ("replay", "import agent57.traces"),
        ("actors", "from learner.learner import Learner"),
        ("actors", "import learner"),
        ("actors", "from replay.codec import encode"),
        ("actors", "from torch.utils.tensorboard import SummaryWriter"),
        ("actors", "from torch.utils import tensorboard"),
        ("learner", "import actors.rollout"),
        ("learner", "import ray"),
        ("learner", "from cluster.run import config"),
        ("learner", "import tensorboard.summary"),
        ("cluster", "import launch"),
        ("cluster", "import pickle"),
        ("cluster", "from cloudpickle import dumps"),
        ("cluster", "torch.load(path)"),
        ("cluster", "torch.load(path, weights_only=False)"),
        ("cluster", "np.load(path, allow_pickle=True)"),
        ("launch", "from agent57.config import AgentConfig"),
        ("launch", "import ray"),
    ],
)
def test_the_rules_can_fail(package: str, source: str) -> None:
    assert violations(source, package) != []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("runtime", "import ray"),
        ("commands", "from ray.exceptions import RayError"),
        ("commands", "def f():\n    import matplotlib"),
        ("on_ray", "from torch.utils.tensorboard import SummaryWriter"),
        ("run", "from cluster.plan.topology import Topology"),
        ("plan", "def f():\n    from cluster.commands import doctor"),
        ("telemetry", "from cluster.runtime.supervisor import Supervisor"),
        ("runtime", "from cluster.on_ray.fleet import RayFleet"),
    ],
)
def test_the_rules_of_the_rooms_can_fail(room: str, source: str) -> None:
    assert violations(source, "cluster", f"cluster/{room}/module.py") != []


@pytest.mark.parametrize("package", ["agent57", "actors", "learner", "replay", "cluster"])
def test_rooms_stay_small(package: str) -> None:
    """At most 12 modules to a folder, and 400 lines to a module."""
    for folder in (ROOT / package, *(path for path in (ROOT / package).rglob("*") if path.is_dir())):
        modules = sorted(folder.glob("*.py"))
        assert len(modules) <= 12, folder
        assert [path.name for path in modules if len(path.read_text().splitlines()) > 400] == [], folder


def test_every_room_is_known() -> None:
    rooms = {path.name for path in (ROOT / "cluster").iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(ROOMS)


def test_no_circles() -> None:
    """Not even by imports that are made late or for the type checker only."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for _, path in sources()}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph = {name: imported_of(name, path, modules) for name, path in modules.items()}
    assert circle(graph) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def imported_of(name: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """The project's modules that ``name`` imports, apart from the packages that hold it."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for _, module in imported_modules(ast.parse(path.read_text()), package):
        candidates = (module, module.rpartition(".")[0])
        found |= {next((one for one in candidates if one in modules), name)}
    return {module for module in found - {name} if (name, module) != ("agent57", "actors.exported_policy")}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Names along a circle of ``graph``, the first again at the end; [] if there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("agent57", "import math\nimport torch.nn.functional as F\nfrom agent57.config import LossConfig"),
        ("replay", "import threading\nimport zstandard\nfrom agent57.structures import SequenceBatch"),
        ("actors", "import gymnasium\nfrom agent57.networks import Agent\nfrom . import lanes"),
        ("learner", "import time\nfrom torch import nn\nfrom agent57 import errors"),
        ("cluster", "import actors.rollout"),
        ("cluster", "torch.load(path, weights_only=True)\nnp.load(path)"),
        ("launch", "import sys\nfrom cluster.run.config import RunConfig"),
    ],
)
def test_what_is_allowed_passes(package: str, source: str) -> None:
    assert violations(source, package) == []
