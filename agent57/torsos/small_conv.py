"""Two small convolutions, for images of few pixels such as gridworlds."""

from __future__ import annotations

from agent57.config import NetworkConfig
from agent57.structures import EnvironmentSpec
from agent57.torsos.contract import TorsoLayers
from agent57.torsos.convolutions import stack


def small_conv(spec: EnvironmentSpec, config: NetworkConfig, input_scale: float) -> TorsoLayers:
    """3x3, and 3x3 in steps of 2; the last two of the three numbers of filters."""
    _, second, third = config.conv_filters
    shapes = [(spec.observation_shape[0], second, 3, 1, 1), (second, third, 3, 2, 1)]
    return TorsoLayers(stack(shapes, spec.observation_shape, input_scale), scaled=True)
