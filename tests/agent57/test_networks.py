"""The five networks: what enters them, what they share (nothing), and the forms in which their weights travel."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agent57.config import NetworkConfig
from agent57.networks import (
    Agent57Networks,
    EmbeddingNetwork,
    ObservationNormalizer,
    QNetwork,
    RandomNetworkDistillation,
    flatten_weights,
    load_flat_weights,
    moments,
)
from agent57.structures import NO_ACTION, EnvironmentSpec
from agent57.torsos import set_torso_dtype
from agent57.values import rescale
from tests.loss_oracle import LSTM_SIZE, SMALL_IMAGE, VECTOR, observations_of, plain_convolutions, tiny_network

NUM_POLICIES = 3
ATARI = EnvironmentSpec((1, 84, 84), "uint8", 255.0, 3)


def q_network(spec: EnvironmentSpec = VECTOR, seed: int = 0) -> QNetwork:
    torch.manual_seed(seed)
    return QNetwork(spec, NUM_POLICIES, tiny_network())


def step_inputs(spec: EnvironmentSpec = VECTOR, **changes: Any) -> dict[str, Any]:
    """The inputs of one step of one lane."""
    inputs = {
        "observations": observations_of(spec, 1),
        "previous_actions": torch.tensor([1]),
        "extrinsic_rewards": torch.tensor([0.5]),
        "intrinsic_rewards": torch.tensor([0.25]),
        "policy_index": torch.tensor([0]),
        "state": (torch.zeros(1, LSTM_SIZE), torch.zeros(1, LSTM_SIZE)),
    }
    return inputs | {name: torch.tensor([value]) for name, value in changes.items()}


# --- Q-networks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [VECTOR, SMALL_IMAGE], ids=["vector", "image"])
def test_steps_one_by_one_equal_the_whole_sequence(spec: EnvironmentSpec) -> None:
    steps, batch = 6, 3
    network, rng = q_network(spec), np.random.default_rng(1)
    previous_actions = torch.from_numpy(rng.integers(NO_ACTION, 3, (steps, batch)))
    rewards = torch.from_numpy(rng.normal(size=(2, steps, batch)).astype(np.float32)) * 10
    policy_index = torch.tensor([0, 2, 1])
    state = (torch.randn(batch, LSTM_SIZE), torch.randn(batch, LSTM_SIZE))
    sequence = (observations_of(spec, steps, batch), previous_actions, rewards[0], rewards[1])
    with torch.no_grad():
        whole, (h, c) = network(*sequence, policy_index, state)
        for t in range(steps):
            q, state = network.step(*(array[t] for array in sequence), policy_index, state)
            torch.testing.assert_close(q, whole[t], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, (h, c), rtol=1e-5, atol=1e-5)
    assert whole.shape == (steps, batch, spec.num_actions)
    assert h.shape == c.shape == (batch, LSTM_SIZE)


@contextmanager
def recorded_inputs(network: QNetwork) -> Iterator[list[Tensor]]:
    """What reaches the LSTM."""
    seen: list[Tensor] = []
    handle = network.lstm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0, 0].detach()))
    yield seen
    handle.remove()


def lstm_input(**changes: Any) -> Tensor:
    network, inputs = q_network(), step_inputs(**changes)
    state, policy_index = inputs.pop("state"), inputs.pop("policy_index")
    with recorded_inputs(network) as seen:
        network(**{name: value[None] for name, value in inputs.items()}, policy_index=policy_index, state=state)
    return seen[0]


def test_lstm_sees_features_policy_action_and_rewards() -> None:
    assert len(lstm_input()) == tiny_network().torso_size + NUM_POLICIES + VECTOR.num_actions + 2


def test_previous_action_is_one_hot_and_no_action_is_all_zeros() -> None:
    without = lstm_input(previous_actions=NO_ACTION)
    positions = []
    for action in range(3):
        change = lstm_input(previous_actions=action) - without
        assert sorted(change.tolist()) == [0.0] * (len(change) - 1) + [1.0]
        positions.append(int(change.argmax()))
    assert len(set(positions)) == 3


def test_policy_index_is_one_hot() -> None:
    change = lstm_input(policy_index=2) - lstm_input(policy_index=0)
    assert sorted(change.tolist()) == [-1.0] + [0.0] * (len(change) - 2) + [1.0]


@pytest.mark.parametrize("reward", [-3.0, 5000.0])
def test_rewards_enter_under_h_each_in_a_place_of_its_own(reward: float) -> None:
    places = []
    for name in ("extrinsic_rewards", "intrinsic_rewards"):
        zero, other = lstm_input(**{name: 0.0}), lstm_input(**{name: reward})
        places += torch.nonzero(other != zero).flatten().tolist()
        assert zero[places[-1]] == 0
        torch.testing.assert_close(other[places[-1]], rescale(torch.tensor(reward)))
    assert len(places) == len(set(places)) == 2


@pytest.mark.parametrize(
    "changes",
    [{"previous_actions": 2}, {"extrinsic_rewards": 2.0}, {"intrinsic_rewards": 2.0}, {"policy_index": 1}],
    ids=lambda changes: next(iter(changes)),
)
def test_every_input_moves_the_q_values(changes: dict[str, Any]) -> None:
    network = q_network()
    before, _ = network.step(**step_inputs())
    after, _ = network.step(**step_inputs(**changes))
    assert (before - after).abs().max() > 1e-4


def test_duelling_heads_are_value_plus_advantages_without_their_mean() -> None:
    network, inputs = q_network(), step_inputs()
    q, (h, _) = network.step(**inputs)
    value, advantages = network.value_head(h), network.advantage_head(h)
    torch.testing.assert_close(q.mean(-1, keepdim=True), value)
    torch.testing.assert_close(q - q[:, :1], advantages - advantages[:, :1])
    network.advantage_head[-1].bias.data += 7.0
    torch.testing.assert_close(network.step(**inputs)[0], q)
    network.value_head[-1].bias.data += 7.0
    torch.testing.assert_close(network.step(**inputs)[0], q + 7.0)


def test_networks_share_no_parameters_and_start_apart() -> None:
    torch.manual_seed(0)
    networks = Agent57Networks(SMALL_IMAGE, NUM_POLICIES, tiny_network())
    parameters = dict(networks.named_parameters(remove_duplicate=False))
    assert len({parameter.data_ptr() for parameter in parameters.values()}) == len(parameters)
    for ours, theirs in ((networks.q_ext, networks.q_int), (networks.rnd.target, networks.rnd.predictor)):
        for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert one.shape == other.shape
            assert not torch.equal(one, other) or name.endswith("bias"), f"{name} starts as a copy"


# --- Sizes and arithmetic -----------------------------------------------------------------------------------


def test_casting_leaves_lstm_heads_and_outputs_in_float32() -> None:
    torch.manual_seed(0)
    networks = Agent57Networks(SMALL_IMAGE, NUM_POLICIES, tiny_network())
    set_torso_dtype(networks, torch.bfloat16, cast_weights=True)
    for name, parameter in networks.named_parameters():
        assert (parameter.dtype == torch.bfloat16) == ("torso" in name or ".0.layers." in name), name
    q, (h, c) = networks.q_ext.step(**step_inputs(SMALL_IMAGE))
    frames = observations_of(SMALL_IMAGE, 2)
    outputs = (q, h, c, networks.embedding(frames), networks.rnd(frames))
    assert all(output.dtype == torch.float32 for output in outputs)


def test_paper_sizes() -> None:
    """Agent57 appendix: 32 8x8/4, 64 4x4/2, 64 3x3/1, linear 512, LSTM 512, heads of 512."""
    with torch.device("meta"):
        shapes = [parameter.shape for parameter in QNetwork(ATARI, 32, NetworkConfig()).parameters()]
    weights = [tuple(shape) for shape in shapes if len(shape) > 1]
    lstm_inputs = 512 + 32 + 3 + 2
    assert weights == [
        *((32, 1, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 64 * 7 * 7)),
        *((2048, lstm_inputs), (2048, 512)),
        *((512, 512), (1, 512), (512, 512), (3, 512)),
    ]


# --- Weights as a vector -----------------------------------------------------------------------------------


def networks_of(seed: int, spec: EnvironmentSpec = SMALL_IMAGE) -> Agent57Networks:
    """With buffers that differ by seed too."""
    torch.manual_seed(seed)
    networks = Agent57Networks(spec, NUM_POLICIES, tiny_network())
    networks.rnd.normalizer.observe(observations_of(spec, 5 + seed, seed=seed))
    networks.scales.td.copy_(torch.tensor([1.0 + seed, 2.0]))
    networks.scales.intrinsic.fill_(3.0 + seed)
    return networks


def test_weights_survive_the_journey_as_a_read_only_vector() -> None:
    source, other = networks_of(0), networks_of(1)
    vector = flatten_weights(source)
    assert vector.dtype == np.float32
    assert vector.shape == (sum(tensor.numel() for tensor in source.state_dict().values()),)
    vector.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_flat_weights(other, vector)
    for (name, ours), theirs in zip(source.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    np.testing.assert_array_equal(flatten_weights(other), vector)


def test_the_vector_is_a_copy_both_ways() -> None:
    source, other = networks_of(0), networks_of(1)
    vector = flatten_weights(source)
    kept = vector.copy()
    load_flat_weights(other, vector)
    for networks in (source, other):
        for parameter in networks.parameters():
            parameter.data.add_(1.0)
    np.testing.assert_array_equal(vector, kept)


def test_weights_load_into_an_acting_copy_with_bfloat16_torsos() -> None:
    source, acting = networks_of(0), networks_of(1)
    set_torso_dtype(acting, torch.bfloat16, cast_weights=True)
    load_flat_weights(acting, flatten_weights(source))
    for (name, ours), theirs in zip(source.state_dict().items(), acting.state_dict().values(), strict=True):
        assert torch.equal(ours.to(theirs.dtype), theirs), name
    assert acting.q_ext.torso.layers[0].weight.dtype == torch.bfloat16
    frames = observations_of(SMALL_IMAGE, 4)
    with torch.no_grad():
        torch.testing.assert_close(acting.embedding(frames), source.embedding(frames), rtol=0.1, atol=0.02)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_vector_of_another_size_is_refused(change: int) -> None:
    networks = networks_of(0)
    vector = flatten_weights(networks)
    wrong = np.resize(vector, len(vector) + change)
    with pytest.raises(ValueError, match=f"expected {len(vector)} weights"):
        load_flat_weights(networks, wrong)
    np.testing.assert_array_equal(flatten_weights(networks), vector)


# --- Normalised observations -------------------------------------------------------------------------------


def test_observed_moments_are_numpys_over_all_frames() -> None:
    normalizer = ObservationNormalizer(SMALL_IMAGE)
    frames = observations_of(SMALL_IMAGE, 30)
    frames[:, :, 0] = 17  # pixels that never change
    frames[20:, :, 1] = 200
    for start, end in ((0, 1), (1, 12), (12, 12), (12, 30)):
        normalizer.observe(frames[start:end])
    assert normalizer.count == 30
    np.testing.assert_allclose(normalizer.mean, frames.numpy().mean(0), rtol=1e-5)
    np.testing.assert_allclose(normalizer.std, frames.numpy().astype(np.float64).std(0), rtol=1e-4, atol=1e-3)


def test_no_observations_change_no_bit_of_the_moments() -> None:
    normalizer = ObservationNormalizer(ATARI)
    frames = observations_of(ATARI, 7).float() + torch.rand(7, *ATARI.observation_shape)
    normalizer.observe(frames)
    before = copy.deepcopy(normalizer.state_dict())
    normalizer.observe(frames[:0])
    normalizer.absorb(*moments(frames, torch.zeros(7)))
    assert all(torch.equal(value, before[name]) for name, value in normalizer.state_dict().items())


def test_moments_that_overflow_stay_as_they_were() -> None:
    normalizer, clean = (ObservationNormalizer(EnvironmentSpec((3,), "float32", 1.0, 3)) for _ in range(2))
    first, bad, last = torch.rand(3, 10, 3).unbind(0)
    bad[4, 0], bad[5, 1] = torch.nan, 1e30
    for batch in (first, bad, last):
        normalizer.observe(batch)
    for batch in (first, bad[:4], last):
        clean.observe(batch)
    assert normalizer.mean.isfinite().all()
    assert normalizer.std.isfinite().all()
    assert normalizer.std.max() < 1
    largest = torch.full((4, 3), 1e15)
    clean.observe(largest)
    assert clean.std.isfinite().all(), "what the door lets in does not overflow"


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_observations_are_whitened_one_by_one_and_clipped(scale: float) -> None:
    normalizer = ObservationNormalizer(EnvironmentSpec((4,), "float32", scale, 3))
    rng = np.random.default_rng(0)
    seen = torch.from_numpy((rng.normal(size=(500, 4)) * [1, 10, 0.1, 0] + [0, 100, -3, 7]).astype(np.float32)) * scale
    normalizer.observe(seen)
    x = normalizer(seen)
    expected = (seen[:, :3] - seen[:, :3].mean(0)) / seen[:, :3].std(0, correction=0)
    torch.testing.assert_close(x[:, :3], expected.clamp(-5, 5), rtol=1e-3, atol=1e-3)
    assert not x[:, 3].any()
    outliers = torch.tensor([[1e6, -1e6, -3.0, 7.1], [0.0, 100.0, 1e9, 6.9]]) * scale
    assert normalizer(outliers)[0, [0, 1, 3]].tolist() == [5.0, -5.0, 5.0]
    assert normalizer(outliers)[1, [2, 3]].tolist() == [5.0, -5.0]


def test_before_anything_is_observed_observations_are_only_scaled() -> None:
    frames = observations_of(SMALL_IMAGE, 2)
    torch.testing.assert_close(ObservationNormalizer(SMALL_IMAGE)(frames), frames / 255)


@pytest.mark.parametrize("kind", [RandomNetworkDistillation, EmbeddingNetwork])
def test_embedding_and_rnd_see_normalized_observations_in_any_unit(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network, frames = kind(SMALL_IMAGE, tiny_network()), observations_of(SMALL_IMAGE, 20).float()
    before = network(frames)
    network.normalizer.observe(frames)
    after = network(frames)
    assert not torch.allclose(before, after)
    network.normalizer.count.zero_()
    network.normalizer.observe(frames * 0.5 + 30)
    torch.testing.assert_close(network(frames * 0.5 + 30), after, rtol=1e-3, atol=1e-4)


def test_scaled_embedding_inputs_ignore_the_moments() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(tiny_network(), embedding_inputs="scaled")
    network, frames = EmbeddingNetwork(SMALL_IMAGE, config), observations_of(SMALL_IMAGE, 20)
    before = network(frames)
    network.normalizer.observe(frames)
    torch.testing.assert_close(network(frames), before)
    plain = network.output(plain_convolutions(network.torso, frames.float() / 255))
    torch.testing.assert_close(plain, before, rtol=1e-4, atol=1e-5)


# --- Random network distillation ---------------------------------------------------------------------------


def rnd_of(spec: EnvironmentSpec = SMALL_IMAGE, seed: int = 0) -> RandomNetworkDistillation:
    torch.manual_seed(seed)
    return RandomNetworkDistillation(spec, tiny_network())


@pytest.mark.parametrize("spec", [ATARI, SMALL_IMAGE, VECTOR], ids=["atari", "image", "vector"])
def test_rnd_weights_start_orthogonal(spec: EnvironmentSpec) -> None:
    network = rnd_of(spec)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert len(layers) == {ATARI: 10, SMALL_IMAGE: 8, VECTOR: 6}[spec]
    for layer in layers:
        matrix = layer.weight.detach().flatten(1)
        matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        torch.testing.assert_close(matrix @ matrix.T, 2 * torch.eye(len(matrix)), rtol=0, atol=1e-4)
        assert not layer.bias.any()


def train(network: RandomNetworkDistillation, frames: Tensor, updates: int) -> None:
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=2e-3)
    for _ in range(updates):
        optimizer.zero_grad()
        network(frames).mean().backward()
        optimizer.step()


def test_target_never_moves_and_gets_no_gradient() -> None:
    network = rnd_of()
    before = copy.deepcopy(network.target.state_dict())
    predictor = copy.deepcopy(network.predictor.state_dict())
    frames = observations_of(SMALL_IMAGE, 8)
    network.normalizer.observe(frames)
    train(network, frames, 3)
    for name, value in network.target.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(not p.requires_grad and p.grad is None for p in network.target.parameters())
    assert all(not torch.equal(value, predictor[name]) for name, value in network.predictor.state_dict().items())


def few_moving_pixels(count: int, row: int, seed: int) -> Tensor:
    """Frames like Pong's: nearly all background, one small object somewhere in a ``row``."""
    rng = np.random.default_rng(seed)
    frames = torch.full((count, *SMALL_IMAGE.observation_shape), 90, dtype=torch.uint8)
    for frame, column in zip(frames, rng.integers(11, size=count), strict=True):
        frame[:, row : row + 2, column : column + 2] = 236
    return frames


def test_errors_tell_frames_apart() -> None:
    """Without normalisation, or with a small initialisation, all frames have the same error."""
    network = rnd_of()
    frames = torch.cat([few_moving_pixels(20, row, seed=row) for row in (0, 4, 8)])
    network.normalizer.observe(frames)
    with torch.no_grad():
        errors = network(frames)
        targets = network.target(network.normalizer(frames))
    assert errors.shape == (60,)
    assert errors.std() > 0.1 * errors.mean() > 0
    assert targets.std(0).mean() > 0.1


def test_error_falls_on_frames_seen_often_and_stays_high_on_new_ones() -> None:
    network = rnd_of()
    familiar, novel = few_moving_pixels(24, 1, seed=1), few_moving_pixels(24, 8, seed=2)
    network.normalizer.observe(torch.cat([familiar, novel]))
    with torch.no_grad():
        before = network(familiar).mean()
    train(network, familiar, 150)
    with torch.no_grad():
        after, elsewhere = network(familiar).mean(), network(novel).mean()
    assert after < 0.1 * before
    assert elsewhere > 5 * after


# --- Batches in either order of memory ---------------------------------------------------------------------


@pytest.mark.parametrize("burn_in", [0, 2])
def test_the_order_of_a_batch_in_memory_does_not_matter(burn_in: int) -> None:
    """Batches come column by column from decompression; others are time-major in memory, too."""
    network = q_network(ATARI)
    observations = observations_of(ATARI, 5, 3)
    by_column = observations.transpose(0, 1).contiguous().transpose(0, 1)
    assert by_column.stride() != observations.stride()
    actions, rewards = torch.ones(5, 3, dtype=torch.int64), torch.rand(5, 3)
    state = (torch.rand(3, LSTM_SIZE), torch.rand(3, LSTM_SIZE))
    results = [
        network(each[burn_in:], actions[burn_in:], rewards[burn_in:], rewards[burn_in:], actions[0], state)[0]
        for each in (observations, by_column, network.torso_inputs(observations), network.torso_inputs(by_column))
    ]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-4, atol=1e-5)
