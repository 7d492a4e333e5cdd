"""What a kind of novelty is: networks that learn, a memory for each lane, and the intrinsic reward that comes of them.

A new kind is a subclass of `Novelty` and its `LaneNovelty`; `docs/extending.md` has a whole one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from agent57.config import AgentConfig
from agent57.networks import Agent57Networks, ObservationNormalizer
from agent57.structures import EnvironmentSpec
from agent57.terms import LossTerm


@dataclass(frozen=True)
class Part:
    """A named part of the intrinsic reward: its mean over steps is the metric ``intrinsic/NAME``.

    ``around_one``: the share of steps above 1 and the largest value are shown too. ``by_revisit``: so are the means
    over new states and over revisits, where the environment tells them apart. ``label``: its line in a video's panel.
    """

    name: str
    label: str = ""
    around_one: bool = False
    by_revisit: bool = False


@dataclass(frozen=True)
class Earned:
    """r^i of what just arrived in L lanes, float32 [L], and the values of its parts by name, [L] each.

    A part is NaN where it is not known yet.
    """

    rewards: np.ndarray
    parts: dict[str, np.ndarray] = field(default_factory=dict)


class LaneNovelty:
    """Novelty as L lanes see it: what it remembers of each lane's episode, and what outlives episodes."""

    def begin(self, lanes: np.ndarray) -> None:
        """Episodes begin now in ``lanes``, bool [L]: forget what was of the last ones."""

    def earn(self, observations: Tensor) -> Earned:
        """What the observations that arrived in all lanes, [L, *obs] as the torsos' ``arrange`` lays them out, earn.

        Called once a step, also for first and final observations; lanes pay nothing for a first one.
        """
        raise NotImplementedError

    def new_weights(self) -> None:
        """The networks have just got newer weights."""

    def metrics(self) -> dict[str, float]:
        """Further figures of this moment, by tag."""
        return {}

    def running_state(self) -> dict[str, Any]:
        """The small part of the state that outlives episodes, in numbers and numpy arrays."""
        # Arrays, since the supervisor unpacks one of these with every reply, and tensors take far longer.
        return {}

    def load_running_state(self, state: dict[str, Any]) -> None:
        """Take over another life's running state, be it of another number of lanes."""

    def state_dict(self) -> dict[str, Any]:
        """Everything, to be saved at once: tensors are not copied."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly from ``state``."""


class Novelty:
    """A kind of novelty for one configuration; learner, lanes and plan each make their own."""

    parts: ClassVar[tuple[Part, ...]] = ()
    terms: ClassVar[tuple[LossTerm, ...]] = ()
    """What is added to the loss."""

    def __init__(self, agent: AgentConfig, spec: EnvironmentSpec) -> None:
        self.agent, self.spec = agent, spec

    def modules(self) -> dict[str, nn.Module]:
        """New networks beside the Q-networks, by the names of the attributes of `Agent57Networks` that they become."""
        return {}

    def trained(self, networks: Agent57Networks) -> dict[str, nn.Module]:
        """Those that get an optimizer, by its name."""
        return {}

    def learned(
        self,
        networks: Agent57Networks,
        arrived: Tensor,
        observe: Callable[[ObservationNormalizer, Tensor], None],
    ) -> None:
        """An update was made, of the observations ``arrived`` [n, *obs] among others.

        ``observe(normalizer, arrived)`` takes them into running moments, those of other learners too, and leaves out
        copies (`Transitions`) and updates that had to be skipped.
        """

    def lanes(self, networks: Agent57Networks, num_lanes: int) -> LaneNovelty:
        """Novelty for ``num_lanes`` lanes that act with ``networks``."""
        raise NotImplementedError

    def bytes_per_lane(self) -> float:
        """Upper estimate of what one lane remembers."""
        return 0.0

    def bytes_per_worker(self) -> float:
        """Upper estimate of what the lanes of a worker remember together, besides."""
        return 0.0
