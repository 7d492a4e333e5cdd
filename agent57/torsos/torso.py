"""The torso: what stands between observations and the features that every network works on.

Every network of `networks.py` builds its own; lanes and learner choose the arithmetic.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from agent57.config import NetworkConfig, choose
from agent57.structures import EnvironmentSpec
from agent57.torsos.contract import DropsBranch, MakeTorso
from agent57.torsos.conv import MIN_PIXELS, conv
from agent57.torsos.convolutions import BlockConv2d, blocks_to_channels
from agent57.torsos.mlp import mlp
from agent57.torsos.nfnet import nfnet
from agent57.torsos.small_conv import small_conv

TORSOS: dict[str, MakeTorso] = {"conv": conv, "small_conv": small_conv, "mlp": mlp, "nfnet": nfnet}
"""The torsos that ``network.torso`` names."""


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
        made = choose(TORSOS, torso_kind(spec, config), "network.torso")(spec, config, scale)
        layers = made.modules
        self._scale = 1.0 if made.scaled else scale
        self._shape = tuple(spec.observation_shape)
        self._block_side = layers[0].stride[0] if layers and isinstance(layers[0], BlockConv2d) else 0
        with torch.no_grad():
            frame = self.arrange(torch.zeros(1, *spec.observation_shape))
            flat, inner = _outputs(_Layers(*layers, nn.Flatten()), frame)
        layers += [nn.Flatten(), nn.Linear(flat, config.torso_size), nn.ReLU()]
        self.layers = _Layers(*layers)
        self.branches = sum(isinstance(layer, DropsBranch) for layer in layers)
        """How many branches a sequence may leave out."""
        self.activations = inner + 2 * config.torso_size
        """Numbers that the layers make of one frame, all of which are kept for the gradients."""
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, observations: Tensor, draws: Tensor | None = None) -> Tensor:
        """``draws`` [branches, N]: which branches are left out (`DropsBranch`); None: none is."""
        x = self.arrange(observations).to(self.compute_dtype)
        if self._scale != 1.0:
            x = x * self._scale
        if self.compute_dtype == torch.float32 or self.weights_cast:
            return self.layers(x, draws).float()
        with torch.autocast(x.device.type, self.compute_dtype):
            return self.layers(x, draws).float()

    def arrange(self, observations: Tensor) -> Tensor:
        """``observations`` in the layout of the first layer; what is in it already stays as it is.

        All networks of one environment share it: who feeds several arranges once.
        """
        if self._block_side and tuple(observations.shape[1:]) == self._shape:
            return blocks_to_channels(observations, self._block_side)
        return observations


class _Layers(nn.Sequential):
    """Layers in a row, of which each `DropsBranch` gets the next row of ``draws``."""

    def forward(self, x: Tensor, draws: Tensor | None = None) -> Tensor:
        rows = iter(()) if draws is None else iter(draws)
        for layer in self:
            x = layer(x, next(rows, None)) if isinstance(layer, DropsBranch) else layer(x)
        return x


def _outputs(layers: nn.Module, frame: Tensor) -> tuple[int, int]:
    """How many numbers ``layers`` make of one frame: in the end, and all of them together."""
    sizes: list[int] = []
    innermost = [module for module in layers.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(lambda _, __, made: sizes.append(made.numel())) for module in innermost]
    flat = layers(frame).shape[1]
    for hook in hooks:
        hook.remove()
    return flat, sum(sizes)


def shallow(config: NetworkConfig) -> NetworkConfig:
    """``config`` for networks that a deep torso would be wasted on: those of novelty. MEME keeps it to its values."""
    return dataclasses.replace(config, torso="auto") if config.torso == "nfnet" else config


def torso_kind(spec: EnvironmentSpec, config: NetworkConfig) -> str:
    """The one of `TORSOS` that ``network.torso`` means for these observations.

    Raises ValueError where a convolution was asked for but cannot be built.
    """
    if config.torso == "auto":
        if not spec.is_image:
            return "mlp"
        return "conv" if min(spec.observation_shape[1:]) >= MIN_PIXELS else "small_conv"
    if config.torso in ("conv", "small_conv", "nfnet") and not spec.is_image:
        raise ValueError(f"network.torso {config.torso} needs images, but observations are vectors: use mlp or auto")
    if config.torso == "conv" and min(spec.observation_shape[1:]) < MIN_PIXELS:
        raise ValueError(f"network.torso conv needs images of {MIN_PIXELS} pixels or more: use small_conv or auto")
    return config.torso


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
