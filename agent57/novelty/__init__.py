"""Kinds of novelty, a module each; `contract.py` says what one is. ``intrinsic.novelty`` names one of `NOVELTIES`."""

from __future__ import annotations

from agent57.config import AgentConfig, choose
from agent57.networks import Agent57Networks
from agent57.novelty.contract import Novelty
from agent57.novelty.lifelong import Lifelong
from agent57.novelty.ngu import NGU
from agent57.novelty.none import NoNovelty
from agent57.novelty.recode import Recode
from agent57.structures import EnvironmentSpec

NOVELTIES: dict[str, type[Novelty]] = {
    "both": NGU,
    "episodic": NGU,
    "lifelong": Lifelong,
    "recode": Recode,
    "none": NoNovelty,
}


def novelty_of(agent: AgentConfig, spec: EnvironmentSpec) -> Novelty:
    """The novelty that ``agent`` names."""
    return choose(NOVELTIES, agent.intrinsic.novelty, "intrinsic.novelty")(agent, spec)


def make_networks(agent: AgentConfig, spec: EnvironmentSpec) -> Agent57Networks:
    """All networks of ``agent``, those of its novelty included."""
    novelty = novelty_of(agent, spec)
    by_policy = agent.loss.td_scale == "policy"
    return Agent57Networks(spec, agent.family.num_policies, agent.network, novelty.modules, by_policy)
