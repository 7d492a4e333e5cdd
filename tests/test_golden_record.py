"""The record of short serial runs: it repeats itself, notices a change, and holds on the machine that wrote it."""

from __future__ import annotations

import json

import pytest

from agent57 import errors
from tests import golden_record

NAME = "smoke, tests.fakes:Chain-v0, peng"


def test_the_smallest_run_ends_as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit where the record was written; a changed loss is told everywhere."""
    kept = json.loads(golden_record.FILE.read_text())
    rows = golden_record.record(NAME)["runs"]
    assert rows.keys() == {NAME, f"{NAME}: 1 update"}
    if kept["machine"] == golden_record.machine():
        assert {name: golden_record.difference(kept["runs"][name], row) for name, row in rows.items()} == dict.fromkeys(
            rows, "same"
        )
    assert golden_record.record(NAME)["runs"] == rows
    monkeypatch.setattr(errors, "epsilon_greedy", lambda q, epsilon: errors.torch.full_like(q, 1 / q.shape[-1]))
    changed = golden_record.record(NAME)["runs"][NAME]
    assert golden_record.difference(rows[NAME], changed).startswith("other weights")
