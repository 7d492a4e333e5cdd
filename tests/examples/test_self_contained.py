"""Each example stands alone: torch and Gymnasium, no Ray, nothing of this project, and short enough to read."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tests.test_layering import PICKLES, forbidden_call, imported_modules

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
FILES = sorted(path for path in EXAMPLES.glob("*.py") if path.name != "__init__.py")
ALLOWED = {"torch", "gymnasium", "numpy", "tyro", "matplotlib"}
MAX_LINES = 210
"""Blank lines not counted."""


def complaints(source: str) -> list[str]:
    tree = ast.parse(source)
    modules = {module.split(".")[0] for _, module in imported_modules(tree, "examples")}
    found = [f"imports {name}" for name in modules - ALLOWED - (set(sys.stdlib_module_names) - PICKLES)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += list(forbidden_call(node, "examples"))
    if sum(bool(line.strip()) for line in source.splitlines()) > MAX_LINES:
        found.append("too long")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_stands_alone(path: Path) -> None:
    assert complaints(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    ["import ray", "from agent57 import errors", "import pickle", "torch.load(path)", "x = 1\n" * (MAX_LINES + 1)],
)
def test_the_rules_can_fail(source: str) -> None:
    assert complaints(source) != []


def test_the_examples_readme_names_each() -> None:
    page = (EXAMPLES / "README.md").read_text()
    assert len(FILES) == 3
    for path in FILES:
        assert f"({path.name})" in page
