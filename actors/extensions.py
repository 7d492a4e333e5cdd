"""Kinds of novelty, torsos and traces from outside the project: ``module:Name`` where a built-in name may stand.

The module is imported in every process that needs the kind, and registered under that name beside the built-in ones
(`NOVELTIES`, `TORSOS`, `TRACES`). docs/extending.md shows one of each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from actors.trusted_modules import import_named, refuse_untrusted
from agent57.config import AgentConfig, choose
from agent57.novelty import NOVELTIES
from agent57.novelty.contract import Novelty
from agent57.torsos import TORSOS
from agent57.traces import TRACES, Estimator


class UnusableExtension(ValueError):
    """What a config names is not there, or is none of what it should be; the message says which and why."""


def load_extensions(agent: AgentConfig) -> None:
    """Make everything known that ``agent`` names; UnusableExtension if something is not."""
    for field, name, known in _named(agent):
        if ":" in name and name not in known:
            known[name] = _imported(field, name)
        try:
            choose(known, name, field)
        except ValueError as error:
            raise UnusableExtension(str(error)) from None


def refuse_untrusted_extensions(
    agent: AgentConfig, trust_modules: Collection[str], source: object, remedy: str
) -> None:
    """As `refuse_untrusted`, of everything that ``agent`` takes from outside; raises UntrustedModule."""
    for field, name in modules_of(agent):
        refuse_untrusted(name, trust_modules, source, remedy, field)


def modules_of(agent: AgentConfig) -> Iterator[tuple[str, str]]:
    """(field, ``module:Name``) of everything that ``agent`` takes from outside."""
    yield from ((field, name) for field, name, _ in _named(agent) if ":" in name)


def _named(agent: AgentConfig) -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield "intrinsic.novelty", agent.intrinsic.novelty, NOVELTIES
    # What auto means depends on the observations, and is built in.
    yield "network.torso", agent.network.torso, {"auto": None, **TORSOS} if agent.network.torso == "auto" else TORSOS
    yield "loss.trace", agent.loss.trace, TRACES


def _imported(field: str, name: str) -> Any:
    module, _, attribute = name.rpartition(":")
    imported = import_named(module, f"--{field} {name}: the module", UnusableExtension)
    if not hasattr(imported, attribute):
        raise UnusableExtension(f"--{field} {name}: the module {module} has no {attribute}")
    found = getattr(imported, attribute)
    wanted, fits = {
        "intrinsic.novelty": ("subclass of Novelty", isinstance(found, type) and issubclass(found, Novelty)),
        "network.torso": ("function that makes TorsoLayers", callable(found)),
        "loss.trace": ("Estimator", isinstance(found, Estimator)),
    }[field]
    if not fits:
        raise UnusableExtension(f"--{field} {name} is no {wanted} but a {type(found).__name__}")
    return found
