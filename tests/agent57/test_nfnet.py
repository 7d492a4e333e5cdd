"""The NFNet torso against a version written out over numpy, and stochastic depth: one draw for each sequence."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agent57.config import LossConfig, NetworkConfig
from agent57.networks import Agent57Networks
from agent57.networks.q_network import QNetwork
from agent57.structures import EnvironmentSpec
from agent57.terms.q_td import unroll
from agent57.torsos import Torso
from agent57.torsos.nfnet import Nonlinearity, ResidualBlock, Shrink, StandardizedConv2d
from learner.config import LearnerConfig
from learner.learner import Learner
from tests.learner.test_learner import agent_config, same
from tests.loss_oracle import LSTM_SIZE, batch_of, observations_of, tiny_network, varied_sequences

IMAGE = EnvironmentSpec((2, 22, 18), "uint8", 255.0, 3)
FILTERS = (4, 6, 5, 3)
BLOCKS = 2


def network_config(**changes: Any) -> NetworkConfig:
    sizes = {"torso": "nfnet", "nfnet_filters": FILTERS, "nfnet_blocks": BLOCKS, "stochastic_depth": 0.5}
    return dataclasses.replace(tiny_network(), **{**sizes, **changes})


def awake(module: nn.Module) -> nn.Module:
    """``module`` with branches that count: they begin at 0."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("branch_gain"):
                parameter.fill_(1.5)
            elif name.endswith("gain") or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


# --- The oracle: convolutions as sums over shifted pictures, in float64 -----------------------------------------


def standardized(weight: np.ndarray, gain: np.ndarray) -> np.ndarray:
    result = np.empty_like(weight)
    for channel, kernel in enumerate(weight):
        mean = sum(kernel.flat) / kernel.size
        variance = sum((value - mean) ** 2 for value in kernel.flat) / kernel.size
        result[channel] = gain[channel] * (kernel - mean) / math.sqrt(max(variance * kernel.size, 1e-4))
    return result


def convolved(x: np.ndarray, weights: dict[str, np.ndarray], name: str, stride: int = 1) -> np.ndarray:
    weight = standardized(weights[f"{name}.weight"], weights[f"{name}.gain"])
    side = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (side // 2, side // 2), (side // 2, side // 2)))
    rows, columns = ((length + 2 * (side // 2) - side) // stride + 1 for length in x.shape[1:])
    total = np.zeros((len(weight), rows, columns)) + weights[f"{name}.bias"][:, None, None]
    for i in range(side):
        for j in range(side):
            seen = padded[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
            total += np.einsum("oc,chw->ohw", weight[:, :, i, j], seen)
    return total


def nonlinear(x: np.ndarray, std: float = 1.0) -> np.ndarray:
    return np.maximum(x / std, 0) * 1.7139588594436646


def block(x: np.ndarray, weights: dict[str, np.ndarray], name: str, std: float) -> np.ndarray:
    u = convolved(nonlinear(x, std), weights, f"{name}.branch.1")
    u = convolved(nonlinear(u), weights, f"{name}.branch.3")
    excite = f"{name}.branch.4"
    hidden = np.maximum(weights[f"{excite}.squeeze.weight"] @ u.mean((1, 2)) + weights[f"{excite}.squeeze.bias"], 0)
    logits = weights[f"{excite}.excite.weight"] @ hidden + weights[f"{excite}.excite.bias"]
    return x + 0.2 * weights[f"{name}.branch_gain"] * u * (2 / (1 + np.exp(-logits)))[:, None, None]


def halved(x: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels, of fewer at an odd edge, times 2."""
    channels, height, width = x.shape
    result = np.zeros((channels, -(-height // 2), -(-width // 2)))
    for row in range(result.shape[1]):
        for column in range(result.shape[2]):
            result[:, row, column] = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean((1, 2)) * 2
    return result


def features_by_hand(torso: Torso, observation: np.ndarray, left_out: tuple[int, ...] = ()) -> np.ndarray:
    """Of one frame, with the branches numbered ``left_out`` left out."""
    weights = {name: value.double().numpy() for name, value in torso.layers.state_dict().items()}
    x = convolved(observation.astype(np.float64) / 255, weights, "0", stride=4)
    layer, number = 1, 0
    for stage in range(4):
        if stage > 0:
            x = convolved(halved(nonlinear(x, math.sqrt(1 + BLOCKS * 0.04))), weights, f"{layer}.convolution")
            layer += 1
        for index in range(BLOCKS):
            if number not in left_out:
                x = block(x, weights, str(layer), math.sqrt(1 + index * 0.04))
            layer, number = layer + 1, number + 1
    flat = nonlinear(x, math.sqrt(1 + BLOCKS * 0.04)).ravel()
    return np.maximum(weights[f"{layer + 2}.weight"] @ flat + weights[f"{layer + 2}.bias"], 0)


@pytest.mark.parametrize("left_out", [(), (0,), (3, 6)])
def test_features_are_those_written_out_by_hand(left_out: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    torso = awake(Torso(IMAGE, network_config()))
    observations = observations_of(IMAGE, 2)
    draws = None
    if left_out:
        draws = torch.tensor([[0.49 if branch in left_out else 0.5] * 2 for branch in range(4 * BLOCKS)])
    with torch.no_grad():
        features = torso(observations, draws).numpy()
    expected = np.stack([features_by_hand(torso, frame, left_out) for frame in observations.numpy()])
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 1e-2, "nothing to compare"


def test_weights_of_nearly_no_variance_are_not_blown_up() -> None:
    convolution = StandardizedConv2d(2, 3, 3)
    with torch.no_grad():
        convolution.weight.copy_(1 + 1e-6 * torch.randn(3, 2, 3, 3))
    weight, gain = convolution.weight.detach().double().numpy(), np.ones(3)
    np.testing.assert_allclose(convolution.standardized().detach().numpy(), standardized(weight, gain), atol=1e-5)
    assert convolution.standardized().abs().max() < 1e-2


def test_weights_in_half_precision_are_standardised_in_float32() -> None:
    torch.manual_seed(0)
    convolution = StandardizedConv2d(2, 3, 3).to(torch.bfloat16)
    weight = convolution.weight.detach().double().numpy()
    expected = standardized(weight, np.ones(3))
    np.testing.assert_allclose(convolution.standardized().detach().numpy(), expected, rtol=1e-5, atol=1e-6)


# --- Variance ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 4])
def test_variance_grows_as_each_block_expects(blocks: int) -> None:
    torch.manual_seed(0)
    stds = [math.sqrt(1 + index * 0.04) for index in range(blocks)]
    stage = nn.Sequential(*(ResidualBlock(64, std, 0.0) for std in stds))
    for layer in stage:
        layer.branch_gain.data.fill_(1.0)
    with torch.no_grad():
        out = stage(torch.randn(8, 64, 32, 32))
    assert out.var() == pytest.approx(1 + blocks * 0.04, rel=0.1)
    assert out.var() > 1 + 0.5 * blocks * 0.04


def test_nonlinearity_and_shrinking_keep_the_variance_at_one() -> None:
    torch.manual_seed(0)
    x = 1.3 * torch.randn(8, 64, 32, 32)
    with torch.no_grad():
        assert Nonlinearity(1.3)(x).var() == pytest.approx(1.0, rel=0.03)
        # A ReLU's outputs have a mean, which the standardised convolution behind it takes out.
        assert Shrink(64, 64, 1.3)(x)[:, :, 1:-1, 1:-1].var() == pytest.approx(1.0, rel=0.15)


def test_a_new_stage_is_the_identity() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(nn.Sequential(ResidualBlock(4, 1.0, 0.0), ResidualBlock(4, 1.02, 0.0))(x), x)


@pytest.mark.parametrize("shape", [(1, 84, 84), (1, 210, 160), (3, 9, 9), (1, 4, 4)])
def test_shapes(shape: tuple[int, ...]) -> None:
    spec = EnvironmentSpec(shape, "uint8", 255.0, 3)
    torso = Torso(spec, network_config(torso_size=7))
    assert torso(observations_of(spec, 2)).shape == (2, 7)
    assert torso.branches == 4 * BLOCKS


def test_paper_sizes() -> None:
    """64, 128, 128, 64 filters, two blocks each; 11 and 6 and 3 pixels a side are left of 84, 7 x 5 of 210 x 160."""
    for shape, pixels in (((1, 84, 84), 3 * 3), ((1, 210, 160), 7 * 5)):
        torso = Torso(EnvironmentSpec(shape, "uint8", 255.0, 18), NetworkConfig(torso="nfnet"))
        convolutions = [layer for layer in torso.modules() if isinstance(layer, nn.Conv2d)]
        assert [layer.out_channels for layer in convolutions] == [64] * 5 + [128] * 10 + [64] * 5
        assert [layer.kernel_size[0] for layer in convolutions] == [7] + [3] * 19
        assert torso.layers[-2].in_features == 64 * pixels


def test_activations_are_what_the_layers_make_of_a_frame() -> None:
    torso = Torso(IMAGE, network_config(nfnet_filters=(1, 1, 1, 1), nfnet_blocks=1, torso_size=7))
    pixels = (6 * 5, 3 * 3, 2 * 2, 1)
    stem, last = pixels[0], pixels[-1]
    # Two nonlinearities, two convolutions, the squeeze-excite's two layers.
    blocks = sum(4 * each + 2 for each in pixels)
    # The nonlinearity sees the larger picture, the convolution makes the smaller one.
    shrinks = sum(before + after for before, after in itertools.pairwise(pixels))
    assert torso.activations == stem + blocks + shrinks + last + last + 2 * 7


# --- Stochastic depth -------------------------------------------------------------------------------------------


def q_network() -> QNetwork:
    torch.manual_seed(0)
    network = QNetwork(IMAGE, 3, network_config())
    awake(network)
    return network


def batch() -> Any:
    return batch_of(varied_sequences(1, IMAGE, 5), IMAGE, 5).to_torch(torch.device("cpu"))


@pytest.mark.parametrize("burn_in", [0, 2])
@pytest.mark.parametrize("in_columns", [False, True])
def test_all_steps_of_a_sequence_leave_out_the_same_branches(burn_in: int, in_columns: bool) -> None:
    """Each sequence by itself, its branches switched off by hand, gives what it gives among the others."""
    network, whole = q_network(), batch()
    if not in_columns:
        whole.observations = whole.observations.contiguous()
    assert (whole.observations.stride(1) > whole.observations.stride(0)) == in_columns
    size = len(whole.policy_index)
    draws = torch.rand((8, size), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        outputs = unroll(network, whole, 0, burn_in, draws)
    kept = draws >= 0.5
    assert len({tuple(column) for column in kept.T.tolist()}) == size, "sequences that differ in nothing"
    for sequence in range(size):
        alone = q_network()
        for gain, keep in zip(gains(alone), kept[:, sequence], strict=True):
            gain.data.mul_(keep)
        with torch.no_grad():
            expected = unroll(alone, whole, 0, burn_in)[:, sequence]
        torch.testing.assert_close(outputs[:, sequence], expected, rtol=1e-4, atol=1e-5)


def gains(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for name, parameter in module.named_parameters() if name.endswith("branch_gain")]


def test_branches_are_left_out_with_their_probability() -> None:
    layer = ResidualBlock(2, 1.0, 0.2)
    layer.branch_gain.data.fill_(1.0)
    x = torch.randn(1, 2, 4, 4).expand(4000, -1, -1, -1)
    with torch.no_grad():
        changed = (layer(x, torch.rand(4000, generator=torch.Generator().manual_seed(0))) != x).flatten(1).any(1)
        kept = layer(x, torch.ones(4000))
    assert changed.float().mean() == pytest.approx(0.8, abs=0.02)
    assert torch.equal(kept, layer(x)), "a branch that is kept is not rescaled"


def test_acting_and_target_networks_leave_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = dataclasses.replace(agent_config(), network=network_config())
    learner = Learner(agent, LearnerConfig(device="cpu"), IMAGE, 0)
    seen: dict[int, list[bool]] = {}
    forward = Torso.forward

    def noted(self: Torso, observations: Tensor, draws: Tensor | None = None) -> Tensor:
        seen.setdefault(id(self), []).append(draws is not None)
        return forward(self, observations, draws)

    monkeypatch.setattr(Torso, "forward", noted)
    learner.update(batch_of(varied_sequences(1, IMAGE, 5), IMAGE, 5))
    online = {id(network.torso) for network in learner.networks.q_networks}
    assert len(seen) > len(online)
    for torso, leaves_out in seen.items():
        assert set(leaves_out) == {torso in online}
    network = q_network()
    inputs = (torch.zeros(2, dtype=torch.int64), torch.zeros(2), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    state = (torch.zeros(2, LSTM_SIZE), torch.zeros(2, LSTM_SIZE))
    seen.clear()
    network.step(observations_of(IMAGE, 2), *inputs, state)
    assert list(seen.values()) == [[False]]


def test_each_update_draws_anew_and_a_resumed_one_as_it_would_have() -> None:
    agent = dataclasses.replace(agent_config(), network=network_config())
    first, second, other = (Learner(agent, LearnerConfig(device="cpu"), IMAGE, seed) for seed in (0, 0, 1))
    data = batch_of(varied_sequences(1, IMAGE, 5), IMAGE, 5)
    for learner in (first, second, other):
        awake(learner.networks)
    draws = []
    for learner in (first, first, first, other):
        learner.update(data)
        draws.append(torch.rand(9, generator=learner._draws).tolist())
    assert len({tuple(each) for each in draws}) == 4
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    one, same_one = first.update(data), second.update(data)
    assert one.metrics == same_one.metrics
    assert same(first.state_dict(), second.state_dict())


# --- In the agent -----------------------------------------------------------------------------------------------


def test_networks_of_novelty_keep_the_small_torso() -> None:
    networks = Agent57Networks(IMAGE, 3, network_config())
    assert networks.q_ext.torso.branches == 8
    for torso in (networks.embedding.torso, networks.rnd.target[0], networks.rnd.predictor[0]):
        assert torso.branches == 0
        assert [layer.kernel_size[0] for layer in torso.layers if isinstance(layer, nn.Conv2d)] == [3, 3]


def test_gains_do_not_decay() -> None:
    agent = dataclasses.replace(agent_config(), network=network_config())
    config = LearnerConfig(device="cpu", optimizer="adamw", weight_decay=0.5, learning_rate=0.1)
    learner = Learner(agent, config, IMAGE, 0)
    optimizer = learner._optimizers["extrinsic"]
    free = {id(parameter) for parameter in optimizer.param_groups[1]["params"]}
    names = {name for name, parameter in learner.networks.q_ext.named_parameters() if id(parameter) in free}
    assert {name for name, _ in learner.networks.q_ext.named_parameters() if name.endswith("gain")} <= names


def test_gradients_reach_every_weight_once_branches_count() -> None:
    torch.manual_seed(0)
    torso = awake(Torso(IMAGE, network_config(nfnet_filters=(16, 16, 16, 16))))
    torso(observations_of(IMAGE, 4)).square().sum().backward()
    for name, parameter in torso.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_half_precision_is_close() -> None:
    torch.manual_seed(0)
    torso = awake(Torso(IMAGE, network_config()))
    observations = observations_of(IMAGE, 4)
    with torch.no_grad():
        exact = torso(observations)
        torso.compute_dtype = torch.bfloat16
        mixed = torso(observations)
        torso.weights_cast = True
        torso.layers.to(torch.bfloat16)
        cast = torso(observations)
    for rounded in (mixed, cast):
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded, exact, rtol=0.2, atol=0.1)


def test_an_nfnet_of_vectors_is_refused() -> None:
    with pytest.raises(ValueError, match=r"network\.torso nfnet needs images"):
        Torso(EnvironmentSpec((5,), "float32", 1.0, 3), NetworkConfig(torso="nfnet"))


def test_losses_on_a_fixed_batch_fall() -> None:
    """With branches left out by chance all the same."""
    agent = dataclasses.replace(
        agent_config(), network=network_config(stochastic_depth=0.1), loss=LossConfig(trace_lambda=0.0)
    )
    learner = Learner(agent, LearnerConfig(device="cpu", learning_rate=2e-3, target_period=10_000), IMAGE, 0)
    data = batch_of(varied_sequences(1, IMAGE, 5), IMAGE, 5)
    losses = [learner.update(data).metrics["learner/extrinsic_loss"] for _ in range(60)]
    assert np.mean(losses[-5:]) < 0.2 * losses[0]
