"""Atari's three convolutions. Agent57 appendix."""

from __future__ import annotations

from torch import nn

from agent57.config import NetworkConfig
from agent57.structures import EnvironmentSpec
from agent57.torsos.contract import TorsoLayers
from agent57.torsos.convolutions import stack

MIN_PIXELS = 36
"""Smallest image side that they can digest."""


def conv(spec: EnvironmentSpec, config: NetworkConfig, input_scale: float) -> TorsoLayers:
    """8x8 in steps of 4, 4x4 in steps of 2, 3x3."""
    first, second, third = config.conv_filters
    shapes = [(spec.observation_shape[0], first, 8, 4, 0), (first, second, 4, 2, 0), (second, third, 3, 1, 0)]
    layers: list[nn.Module] = stack(shapes, spec.observation_shape, input_scale)
    return TorsoLayers(layers, scaled=True)
