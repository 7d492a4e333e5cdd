"""What a kind of torso is: layers from observations to features, which `torso.py` makes a part of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from agent57.config import NetworkConfig
from agent57.structures import EnvironmentSpec


@dataclass
class TorsoLayers:
    """``modules`` in a row: observations [N, *obs] as floats -> features [N, ...], which are flattened afterwards.

    A linear layer of ``network.torso_size`` with a ReLU ends every torso and is not among them. ``scaled``: the first
    one multiplies observations by ``input_scale`` itself; otherwise that is done before.
    """

    modules: list[nn.Module]
    scaled: bool = False


MakeTorso = Callable[[EnvironmentSpec, NetworkConfig, float], TorsoLayers]
"""(what observations look like, sizes, ``input_scale``) -> layers, new at every call."""
