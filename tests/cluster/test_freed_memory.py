"""Freed memory stays with a process once it has asked for that."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from cluster.plan.freed_memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        # Two at a time: freeing them empties the top of the heap.
        first, second = np.ones(3_000_000, np.uint8), np.ones(3_000_000, np.uint8)
        del first, second
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    faults = {
        choice: int(subprocess.run([sys.executable, "-c", SCRIPT, choice], check=True, capture_output=True).stdout)
        for choice in ("keep", "give back")
    }
    assert faults["keep"] < 100
    assert faults["give back"] > 1000, "the test no longer shows what would happen otherwise"
