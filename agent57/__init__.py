"""Agent57's algorithm; and `load_policy`, the front door for whoever only wants to use a trained agent.

The algorithm itself touches no files. `load_policy` lives in `actors/exported_policy.py` and is imported when it is
asked for, so ``import agent57`` needs nothing but numpy and torch.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "load_policy":
        from actors.exported_policy import load_policy

        return load_policy
    raise AttributeError(f"module 'agent57' has no attribute {name!r}")
