"""Torsos: fast convolutions against plain ones, arithmetic, and which kind is built for which observations."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from agent57.config import NetworkConfig
from agent57.structures import EnvironmentSpec
from agent57.torsos import Torso, set_torso_dtype, torso_kind
from agent57.torsos.convolutions import BlockConv2d, blocks_to_channels
from tests.loss_oracle import SMALL_IMAGE, VECTOR, observations_of, plain_convolutions, tiny_network

ATARI = EnvironmentSpec((1, 84, 84), "uint8", 255.0, 3)


@pytest.mark.parametrize(
    ("shape", "dtype", "scale", "blocks"),
    [
        ((1, 84, 84), "uint8", 255.0, True),
        ((1, 84, 84), "float32", 1.0, True),
        ((3, 40, 44), "uint8", 255.0, True),
        ((2, 36, 36), "float32", 2.0, True),
        ((1, 38, 36), "uint8", 255.0, False),
        ((3, 12, 12), "uint8", 255.0, False),
    ],
)
def test_torso_equals_plain_convolutions(shape: tuple[int, int, int], dtype: str, scale: float, blocks: bool) -> None:
    torch.manual_seed(0)
    spec = EnvironmentSpec(shape, dtype, scale, 3)
    torso = Torso(spec, tiny_network())
    assert isinstance(torso.layers[0], BlockConv2d) == blocks
    observations = observations_of(spec, 3)
    with torch.no_grad():
        fast, slow = torso(observations), plain_convolutions(torso, observations.float() / scale)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    assert fast.std() > 1e-3, "nothing to compare"


def test_torso_accepts_frames_that_are_not_contiguous() -> None:
    torch.manual_seed(0)
    torso = Torso(ATARI, tiny_network())
    frames = observations_of(ATARI, 4)
    reversed_in_memory = frames.flip(-1).contiguous().flip(-1)
    scattered = frames.transpose(2, 3).contiguous().transpose(2, 3)
    every_other = frames.repeat_interleave(2, 0)[::2]
    with torch.no_grad():
        for frames_like in (reversed_in_memory, scattered, every_other, frames[1:]):
            expected = plain_convolutions(torso, frames_like.float() / 255)
            torch.testing.assert_close(torso(frames_like), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "dtype"), [(1, torch.uint8), (1, torch.float32), (3, torch.uint8)])
def test_blocks_hold_the_pixels_of_their_square_channel_by_channel(channels: int, dtype: torch.dtype) -> None:
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, channels, 8, 12))).to(dtype)
    blocks = blocks_to_channels(x, 4)
    assert blocks.shape == (2, channels * 16, 2, 3)
    assert blocks.dtype == dtype
    for row in range(2):
        for column in range(3):
            square = x[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            assert torch.equal(blocks[:, :, row, column], square.flatten(1))


def test_gradients_of_the_block_convolution_are_the_plain_ones() -> None:
    torch.manual_seed(0)
    torso = Torso(ATARI, tiny_network())
    frames = observations_of(ATARI, 2)
    torso(frames).square().sum().backward()
    fast = torso.layers[0].weight.grad
    first = nn.Conv2d(1, 4, 8, 4)
    first.load_state_dict(torso.layers[0].state_dict())
    torso.layers[1:](first(frames.float() / 255)).square().sum().backward()
    torch.testing.assert_close(fast, first.weight.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", [ATARI, SMALL_IMAGE, VECTOR], ids=["atari", "image", "vector"])
@pytest.mark.parametrize("cast_weights", [False, True])
def test_bfloat16_torso_is_close_and_returns_float32(spec: EnvironmentSpec, cast_weights: bool) -> None:
    torch.manual_seed(0)
    torso = Torso(spec, tiny_network())
    half = copy.deepcopy(torso)
    set_torso_dtype(half, torch.bfloat16, cast_weights)
    observations = observations_of(spec, 4)
    with torch.no_grad():
        exact, rounded = torso(observations), half(observations)
    assert exact.dtype == rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.02)
    assert not torch.equal(rounded, exact), "still computed in float32"
    kept = {parameter.dtype for parameter in half.parameters()}
    assert kept == ({torch.bfloat16} if cast_weights else {torch.float32})


def test_a_bfloat16_learner_gets_float32_gradients() -> None:
    torch.manual_seed(0)
    torso = Torso(SMALL_IMAGE, tiny_network())
    set_torso_dtype(torso, torch.bfloat16)
    torso(observations_of(SMALL_IMAGE, 2)).sum().backward()
    for parameter in torso.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.any()


@pytest.mark.parametrize(
    ("shape", "wanted", "kind"),
    [
        ((1, 84, 84), "auto", "conv"),
        ((3, 36, 40), "auto", "conv"),
        ((3, 35, 84), "auto", "small_conv"),
        ((3, 9, 9), "auto", "small_conv"),
        ((5,), "auto", "mlp"),
        ((3, 9, 9), "mlp", "mlp"),
        ((1, 84, 84), "small_conv", "small_conv"),
    ],
)
def test_torso_kinds(shape: tuple[int, ...], wanted: Any, kind: str) -> None:
    spec = EnvironmentSpec(shape, "float32", 1.0, 3)
    config = NetworkConfig(torso=wanted, conv_filters=(2, 3, 4), torso_size=5)
    assert torso_kind(spec, config) == kind
    torso = Torso(spec, config)
    kernels = [layer.kernel_size[0] for layer in torso.layers if isinstance(layer, nn.Conv2d)]
    assert kernels == {"conv": [8, 4, 3], "small_conv": [3, 3], "mlp": []}[kind]
    features = torso(observations_of(spec, 2))
    assert features.shape == (2, 5)
    assert (features >= 0).all()


@pytest.mark.parametrize(("shape", "wanted"), [((5,), "conv"), ((5,), "small_conv"), ((3, 35, 40), "conv")])
def test_impossible_torsos_are_refused(shape: tuple[int, ...], wanted: Any) -> None:
    with pytest.raises(ValueError, match=rf"network\.torso {wanted} needs"):
        Torso(EnvironmentSpec(shape, "float32", 1.0, 3), NetworkConfig(torso=wanted))
