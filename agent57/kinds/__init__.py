"""How the values of the N policies are represented, a kind each: ``network.kind`` names one of `KINDS`."""

from __future__ import annotations

from agent57.config import AgentConfig, choose
from agent57.kinds.contract import Choice, ValueKind
from agent57.kinds.separate import Separate
from agent57.kinds.shared import Shared

KINDS: dict[str, type[ValueKind]] = {"separate": Separate, "single": Separate, "shared": Shared}

__all__ = ["KINDS", "Choice", "ValueKind", "kind_of"]


def kind_of(agent: AgentConfig) -> ValueKind:
    """The kind that ``agent`` names."""
    return choose(KINDS, agent.network.kind, "network.kind")(agent)
