"""A deep residual network without layers that normalise. MEME section 4 C1; its blocks are those of Brock et al. 2021.

What keeps the variance of features at 1 instead: convolutions with standardised weights, nonlinearities times a
constant, and branches that know the standard deviation to expect at their input.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agent57.config import NetworkConfig
from agent57.structures import EnvironmentSpec
from agent57.torsos.contract import DropsBranch, TorsoLayers

STEM = (7, 4)
"""Kernel and stride of the first convolution."""
SHRINK = 2
"""By how much each later stage begins to shrink its input."""
ALPHA = 0.2
"""How much of a branch is added to what goes past it."""
RELU_GAIN = 1.7139588594436646
"""Times this, the ReLU of a standard normal number has variance 1."""
SMALLEST_VARIANCE = 1e-4


def nfnet(spec: EnvironmentSpec, config: NetworkConfig, _: float) -> TorsoLayers:
    """A stem, then stages of residual blocks with a `Shrink` between each two."""
    # At a stage's start, after each of its blocks.
    expected_stds = [math.sqrt(1 + blocks * ALPHA**2) for blocks in range(config.nfnet_blocks + 1)]
    layers: list[nn.Module] = [StandardizedConv2d(spec.observation_shape[0], config.nfnet_filters[0], *STEM)]
    for stage, filters in enumerate(config.nfnet_filters):
        if stage > 0:
            layers.append(Shrink(config.nfnet_filters[stage - 1], filters, expected_stds[-1]))
        layers += [ResidualBlock(filters, std, config.stochastic_depth) for std in expected_stds[:-1]]
    return TorsoLayers([*layers, Nonlinearity(expected_stds[-1])])


class Nonlinearity(nn.Module):
    """A ReLU of what has ``expected_std``, times a constant, so that what comes out has variance 1."""

    def __init__(self, expected_std: float = 1.0) -> None:
        super().__init__()
        self.factor = RELU_GAIN / expected_std

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) * self.factor


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose weights have mean 0 and variance 1 / fan-in for each output channel, times a learned gain.

    ``gain`` is a vector, so that weight decay leaves it alone as it does biases.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.gain = nn.Parameter(torch.ones(outputs))
        assert self.bias is not None
        nn.init.normal_(self.weight, std=1 / math.sqrt(inputs * kernel**2))
        nn.init.zeros_(self.bias)

    def standardized(self) -> Tensor:
        """gain (W - mean) / sqrt(max(fan-in variance, 1e-4)), float32 whatever the weights are stored in."""
        weight = self.weight.float()
        variance, mean = torch.var_mean(weight, (1, 2, 3), correction=0, keepdim=True)
        scale = (variance * weight[0].numel()).clamp(min=SMALLEST_VARIANCE).rsqrt()
        return (weight - mean) * (scale * self.gain.float().view(-1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.standardized().to(x.dtype), self.bias, self.stride, self.padding)


class SqueezeExcite(nn.Module):
    """Each channel times a number between 0 and 2 that follows from the means of all; [N, C, H, W] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 2)
        self.squeeze, self.excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        factors = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * (2 * factors).unsqueeze(-1).unsqueeze(-1)


class ResidualBlock(DropsBranch):
    """x + alpha s u(x / b): u two convolutions and a squeeze-excite, s learned from 0 on, b the expected std of x.

    Stochastic depth: the whole branch is left out with probability ``drop_rate``, and not rescaled where it is kept.
    """

    def __init__(self, channels: int, expected_std: float, drop_rate: float) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.branch = nn.Sequential(
            Nonlinearity(expected_std),
            StandardizedConv2d(channels, channels, 3),
            Nonlinearity(),
            StandardizedConv2d(channels, channels, 3),
            SqueezeExcite(channels),
        )
        self.branch_gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, draws: Tensor | None = None) -> Tensor:
        branch = self.branch(x) * (ALPHA * self.branch_gain)
        if draws is not None:
            branch = branch * (draws >= self.drop_rate).to(branch.dtype).view(-1, 1, 1, 1)
        return x + branch


class Shrink(nn.Module):
    """Between two stages: nonlinearity, the means of ``SHRINK`` x ``SHRINK`` pixels, and a convolution.

    A mean of n numbers has an n-th of their variance: times the square root of n it has theirs.
    """

    def __init__(self, inputs: int, outputs: int, expected_std: float) -> None:
        super().__init__()
        self.nonlinearity = Nonlinearity(expected_std)
        self.convolution = StandardizedConv2d(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        # What is left over at the edges is averaged too, over the pixels that there are.
        means = F.avg_pool2d(self.nonlinearity(x), SHRINK, ceil_mode=True)
        return self.convolution(means * SHRINK)
