"""What a kind of torso is: layers from observations to features, which `torso.py` makes a part of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from agent57.config import NetworkConfig
from agent57.structures import EnvironmentSpec


class DropsBranch(nn.Module):
    """A layer that leaves a branch out for some sequences while it learns, and never otherwise (stochastic depth)."""

    def forward(self, x: Tensor, draws: Tensor | None = None) -> Tensor:
        """``draws`` [N], uniform in [0, 1), the same for all frames of a sequence, decide; None: all is kept."""
        raise NotImplementedError


@dataclass
class TorsoLayers:
    """``modules`` in a row: observations [N, *obs] as floats -> features [N, ...], which are flattened afterwards.

    A linear layer of ``network.torso_size`` with a ReLU ends every torso and is not among them. ``scaled``: the first
    one multiplies observations by ``input_scale`` itself; otherwise that is done before. A `DropsBranch` among them is
    handed its draws too.
    """

    modules: list[nn.Module]
    scaled: bool = False


MakeTorso = Callable[[EnvironmentSpec, NetworkConfig, float], TorsoLayers]
"""(what observations look like, sizes, ``input_scale``) -> layers, new at every call."""
