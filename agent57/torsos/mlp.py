"""A hidden layer on flattened observations, for vectors."""

from __future__ import annotations

import math

from torch import nn

from agent57.config import NetworkConfig
from agent57.structures import EnvironmentSpec
from agent57.torsos.contract import TorsoLayers


def mlp(spec: EnvironmentSpec, config: NetworkConfig, _: float) -> TorsoLayers:
    """One linear layer; the one that ends every torso follows."""
    inputs = math.prod(spec.observation_shape)
    return TorsoLayers([nn.Flatten(), nn.Linear(inputs, config.torso_size), nn.ReLU()])
