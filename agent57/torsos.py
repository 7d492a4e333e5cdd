"""The torso: what stands between observations and the features that every network works on.

Agent57 appendix (Atari's three convolutions), with two small ones for gridworlds and an MLP for vectors. Every network
of `networks.py` builds its own; lanes and learner choose the arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agent57.config import NetworkConfig
from agent57.structures import EnvironmentSpec

CONV_MIN_PIXELS = 36
"""Smallest image side that Atari's three convolutions can digest."""


class Torso(nn.Module):
    """Observations [N, *obs] (any dtype) -> features float32 [N, torso_size].

    ``compute_dtype`` bfloat16 runs the layers under autocast while weights stay float32 (the learner), or
    directly if the weights themselves were cast by `set_torso_dtype` (acting). Inputs are divided by the
    environment's scale here, unless ``normalized`` says that they come normalised.
    """

    def __init__(self, spec: EnvironmentSpec, config: NetworkConfig, normalized: bool = False) -> None:
        super().__init__()
        self.compute_dtype = torch.float32
        self.weights_cast = False
        scale = 1.0 if normalized else 1.0 / spec.observation_scale
        kind = torso_kind(spec, config)
        layers = _conv_layers(kind, spec, config, scale) if kind != "mlp" else []
        self._scale = 1.0 if layers else scale
        self._shape = tuple(spec.observation_shape)
        self._block_side = layers[0].stride[0] if layers and isinstance(layers[0], BlockConv2d) else 0
        with torch.no_grad():
            flat = nn.Sequential(*layers, nn.Flatten())(self.arrange(torch.zeros(1, *spec.observation_shape))).shape[1]
        if kind == "mlp":
            layers += [nn.Flatten(), nn.Linear(flat, config.torso_size), nn.ReLU()]
            flat = config.torso_size
        layers += [nn.Flatten(), nn.Linear(flat, config.torso_size), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, observations: Tensor) -> Tensor:
        x = self.arrange(observations).to(self.compute_dtype)
        if self._scale != 1.0:
            x = x * self._scale
        if self.compute_dtype == torch.float32 or self.weights_cast:
            return self.layers(x).float()
        with torch.autocast(x.device.type, self.compute_dtype):
            return self.layers(x).float()

    def arrange(self, observations: Tensor) -> Tensor:
        """``observations`` in the layout of the first layer; what is in it already stays as it is.

        All networks of one environment share it: who feeds several arranges once.
        """
        if self._block_side and tuple(observations.shape[1:]) == self._shape:
            return blocks_to_channels(observations, self._block_side)
        return observations


class ScaledConv2d(nn.Conv2d):
    """A convolution of ``input_scale`` times its input: scaling the few weights saves a pass over all pixels.

    Pixels then enter as whole numbers up to 255, which bfloat16 holds exactly.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int, input_scale: float) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding)
        self.input_scale = input_scale

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.input_scale, self.bias, self.stride, self.padding)


class BlockConv2d(ScaledConv2d):
    """One whose kernel is a multiple of its stride, computed with stride 1 over stride x stride blocks.

    The same function and the same weights as ``nn.Conv2d``, on inputs that `blocks_to_channels` rearranged;
    Atari's 8x8/4 on one channel becomes 2x2/1 on 16, which trains 1.4 to 1.6 times as fast.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, blocks_to_channels(self.weight, self.stride[0]) * self.input_scale, self.bias)


def blocks_to_channels(x: Tensor, side: int) -> Tensor:
    """[N, C, H, W] -> [N, C side^2, H / side, W / side], channels-last; sides must divide H and W."""
    n, channels, height, width = x.shape
    rows, columns = height // side, width // side
    if x.dtype == torch.uint8 and channels == 1 and side == 4 and x.is_contiguous():
        # Four pixels of a row move as one 32-bit number.
        words = x.reshape(n, rows, side, width).view(torch.int32).transpose(2, 3).contiguous()
        return words.view(torch.uint8).reshape(n, rows, columns, side * side).permute(0, 3, 1, 2)
    blocks = x.reshape(n, channels, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
    # One copy, straight into channels-last order: any other order slows the layers that follow.
    return blocks.reshape(n, rows, columns, channels * side * side).permute(0, 3, 1, 2)


def torso_kind(spec: EnvironmentSpec, config: NetworkConfig) -> str:
    """ "conv", "small_conv" or "mlp": what ``network.torso`` means for these observations.

    Raises ValueError where a convolution was asked for but cannot be built.
    """
    if config.torso == "auto":
        if not spec.is_image:
            return "mlp"
        return "conv" if min(spec.observation_shape[1:]) >= CONV_MIN_PIXELS else "small_conv"
    if config.torso != "mlp" and not spec.is_image:
        raise ValueError(f"network.torso {config.torso} needs images, but observations are vectors: use mlp or auto")
    if config.torso == "conv" and min(spec.observation_shape[1:]) < CONV_MIN_PIXELS:
        raise ValueError(f"network.torso conv needs images of {CONV_MIN_PIXELS} pixels or more: use small_conv or auto")
    return config.torso


def _conv_layers(kind: str, spec: EnvironmentSpec, config: NetworkConfig, input_scale: float) -> list[nn.Module]:
    channels = spec.observation_shape[0]
    first, second, third = config.conv_filters
    if kind == "conv":
        shapes = [(channels, first, 8, 4, 0), (first, second, 4, 2, 0), (second, third, 3, 1, 0)]
    else:
        shapes = [(channels, second, 3, 1, 1), (second, third, 3, 2, 1)]
    layers: list[nn.Module] = []
    for inputs, outputs, kernel, stride, padding in shapes:
        if layers:
            layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU()]
        else:
            # Atari's first layer works on blocks.
            blocks = kernel == 2 * stride and all(side % stride == 0 for side in spec.observation_shape[1:])
            convolution = BlockConv2d if blocks else ScaledConv2d
            layers += [convolution(inputs, outputs, kernel, stride, padding, input_scale), nn.ReLU()]
    return layers


def resolve_torso_dtype(name: str, device: str | torch.device = "cpu") -> torch.dtype:
    """The dtype that "float32", "bfloat16" or "auto" names; auto is bfloat16 where ``device`` computes it natively.

    Processors without bf16 instructions emulate them: on one with AVX2 alone, Atari's torso took five times as long as
    in float32.
    """
    if name != "auto":
        return getattr(torch, name)
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    capabilities = torch.cpu.get_capabilities()
    native = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return torch.bfloat16 if native else torch.float32


def set_torso_dtype(module: nn.Module, dtype: torch.dtype, cast_weights: bool = False) -> None:
    """Let every torso inside ``module`` compute in ``dtype``; ``cast_weights`` also stores them in it.

    The LSTM and the heads stay float32. Casting is for acting copies; a learner keeps float32 weights.
    """
    for torso in module.modules():
        if isinstance(torso, Torso):
            torso.compute_dtype = dtype
            if cast_weights:
                torso.weights_cast = True
                torso.layers.to(dtype)
