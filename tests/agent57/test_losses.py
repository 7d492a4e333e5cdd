"""The update against a slow oracle, and the mistakes of DESIGN section 7 that would train something else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from agent57.config import LossConfig
from agent57.errors import loss_mask, sequence_priorities
from agent57.networks import EmbeddingNetwork, QNetwork, RandomNetworkDistillation
from agent57.structures import EnvironmentSpec, Sequence, SequenceBatch
from agent57.terms.inverse_dynamics import inverse_dynamics
from agent57.terms.q_td import outside_trust_region
from agent57.terms.rnd import rnd
from agent57.terms.term import Transitions, last_valid
from agent57.values import rescale, unrescale
from tests import oracles
from tests.loss_oracle import (
    INDEXED,
    SMALL_IMAGE,
    VECTOR,
    FastLosses,
    SlowLosses,
    TableNetwork,
    batch_of,
    fast_q_losses,
    indexed,
    random_sequence,
    scales_of,
    slow_q_losses,
    tiny_network,
    varied_sequences,
)

BETAS = torch.tensor([0.0, 0.3, 1.5], dtype=torch.float64)
DISCOUNTS = torch.tensor([0.99, 0.95, 0.8], dtype=torch.float64)
Trace = Literal["retrace", "peng", "soft_watkins"]
Mix = Literal["rescaled", "linear"]
ALL_OPTIONS = [(trace, mix) for trace in ("retrace", "peng", "soft_watkins") for mix in ("rescaled", "linear")]


def update(
    networks: list[Any],
    batch: SequenceBatch,
    config: LossConfig | None = None,
    td_scale: tuple[float, float] = (1.0, 1.0),
    intrinsic_scale: float = 1.0,
) -> FastLosses:
    """Losses of four networks: online extrinsic and intrinsic, target extrinsic and intrinsic."""
    return fast_q_losses(
        (networks[0], networks[1]),
        (networks[2], networks[3]),
        batch.to_torch(),
        BETAS,
        DISCOUNTS,
        config or LossConfig(),
        scales_of(td_scale, intrinsic_scale),
    )


def recurrent_networks(spec: EnvironmentSpec, seed: int) -> list[QNetwork]:
    """Four networks whose Q-values are large enough for h to matter."""
    torch.manual_seed(seed)
    networks = [QNetwork(spec, len(BETAS), tiny_network()) for _ in range(4)]
    for network in networks:
        for head in (network.value_head, network.advantage_head):
            head[-1].weight.data *= 8
    return networks


def tables(seed: int, size: int) -> list[TableNetwork]:
    rng = np.random.default_rng(seed)
    return [TableNetwork(rng.normal(size=(size, 3)) * 4) for _ in range(4)]


def assert_equal_to_oracle(fast: FastLosses, slow: SlowLosses, rtol: float, atol: float) -> None:
    for b, valid in enumerate(slow.valid):
        n = len(valid)
        assert fast.mask[:, b].tolist() == valid + [False] * (len(fast.mask) - n)
        for net in (0, 1):
            np.testing.assert_allclose(fast.td_errors[net, :n, b], slow.td_errors[net][b], rtol=rtol, atol=atol)
    np.testing.assert_allclose(fast.losses.detach(), slow.losses, rtol=rtol, atol=atol)
    np.testing.assert_allclose(fast.priorities, slow.priorities, rtol=rtol, atol=atol)
    np.testing.assert_allclose(fast.mean_q, slow.mean_q, rtol=rtol, atol=atol)
    np.testing.assert_allclose(fast.max_abs_q, slow.max_abs_q, rtol=rtol, atol=atol)
    np.testing.assert_allclose(fast.mean_trace, slow.mean_trace, rtol=rtol, atol=atol)
    np.testing.assert_allclose(fast.masked_share, slow.masked_share, rtol=1e-6, atol=0)


# --- Against the oracle ------------------------------------------------------------------------------------


@pytest.mark.parametrize("trace_length", [1, 6])
@pytest.mark.parametrize(("trace", "mix"), ALL_OPTIONS)
def test_update_of_tables_equals_oracle_exactly(trace: Trace, mix: Mix, trace_length: int) -> None:
    sequences, size = indexed(varied_sequences(trace_length, INDEXED, trace_length))
    networks = tables(7, size)
    config = LossConfig(trace=trace, mix=mix)
    fast = update(networks, batch_of(sequences, INDEXED, trace_length), config)
    slow = slow_q_losses(sequences, networks[:2], networks[2:], BETAS, DISCOUNTS, config)
    assert_equal_to_oracle(fast, slow, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("trace", "mix", "burn_in"),
    [("retrace", "rescaled", 0), ("retrace", "linear", 2), ("peng", "rescaled", 2), ("peng", "linear", 0)],
)
def test_update_of_recurrent_networks_equals_oracle(trace: Trace, mix: Mix, burn_in: int) -> None:
    sequences = varied_sequences(3, VECTOR, 6)
    networks = recurrent_networks(VECTOR, 4)
    config = LossConfig(trace=trace, mix=mix, burn_in=burn_in, trace_lambda=0.9, target_epsilon=0.05, priority_eta=0.7)
    fast = update(networks, batch_of(sequences, VECTOR, 6), config)
    slow = slow_q_losses(sequences, networks[:2], networks[2:], BETAS, DISCOUNTS, config)
    assert_equal_to_oracle(fast, slow, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("trace", ["peng", "soft_watkins"])
@pytest.mark.parametrize("bootstrap", ["online", "target"])
@pytest.mark.parametrize("alpha", [0.05, 1.0, 1e9])
def test_update_with_a_trust_region_equals_oracle(trace: Trace, bootstrap: Any, alpha: float) -> None:
    sequences, size = indexed(varied_sequences(6, INDEXED, 6))
    networks = tables(8, size)
    config = LossConfig(trace=trace, kappa=0.3, bootstrap=bootstrap, trust_region=alpha)
    scales: dict[str, Any] = {"td_scale": (0.5, 2.0)}
    fast = update(networks, batch_of(sequences, INDEXED, 6), config, **scales)
    slow = slow_q_losses(sequences, networks[:2], networks[2:], BETAS, DISCOUNTS, config, **scales)
    assert_equal_to_oracle(fast, slow, rtol=1e-9, atol=1e-9)
    assert (0.1 < slow.masked_share < 0.9) if alpha < 10 else slow.masked_share == 0


def test_outside_the_trust_region_only_what_leads_further_out_is_left_out() -> None:
    """The four sign cases, inside and outside; the boundary is kept. Without the second sign all four were masked."""
    centre, alpha, sigma = 1.0, 2.0, 0.5
    cases = [(3.0, 5.0, True), (3.0, 2.0, False), (-1.0, -5.0, True), (-1.0, 0.0, False)]
    cases += [(1.9, 5.0, False), (0.1, -5.0, False), (2.0, 5.0, False), (0.0, -5.0, False)]
    for q, target, outside in cases:
        arguments = [torch.tensor(x, dtype=torch.float64) for x in (q, centre, target, sigma)]
        assert bool(outside_trust_region(*arguments, alpha)) is outside, (q, target)
        assert oracles.outside_trust_region(q, centre, target, sigma, alpha) is outside, (q, target)
    same = torch.randn(50)
    assert not outside_trust_region(same, same, torch.randn(50), torch.tensor(1e-6), 0.1).any()


def test_a_step_that_is_left_out_has_no_gradient_but_counts_in_the_priority() -> None:
    networks = tables(20, 2)
    sequence = one_transition()
    action = int(sequence.actions[0])
    networks[0].table.data[0, action] = networks[2].table.data[0, action] + 5  # far above the target network's,
    sequence.extrinsic_rewards[1] = 1e6  # and the target is further above
    kept = update(networks, batch_of([sequence], INDEXED, 1), LossConfig(trust_region=1e6))
    masked = update(networks, batch_of([sequence], INDEXED, 1), LossConfig(trust_region=2.0))
    for network in networks:
        network.table.grad = None
    masked.losses[0].backward(retain_graph=True)
    assert networks[0].table.grad is None or not networks[0].table.grad.any()
    kept.losses[0].backward()
    assert networks[0].table.grad[0, action] != 0
    torch.testing.assert_close(masked.priorities, kept.priorities, rtol=0, atol=0)


def test_update_on_images_equals_oracle() -> None:
    sequences = varied_sequences(5, SMALL_IMAGE, 4)
    networks = recurrent_networks(SMALL_IMAGE, 6)
    fast = update(networks, batch_of(sequences, SMALL_IMAGE, 4))
    slow = slow_q_losses(sequences, networks[:2], networks[2:], BETAS, DISCOUNTS, LossConfig())
    assert_equal_to_oracle(fast, slow, rtol=1e-4, atol=1e-4)


def test_scales_divide_td_errors_and_intrinsic_rewards() -> None:
    sequences, size = indexed(varied_sequences(8, INDEXED, 5))
    networks = tables(9, size)
    # Powers of two, so that float32 rewards divide exactly.
    scales: dict[str, Any] = {"td_scale": (0.5, 8.0), "intrinsic_scale": 4.0}
    fast = update(networks, batch_of(sequences, INDEXED, 5), **scales)
    slow = slow_q_losses(sequences, networks[:2], networks[2:], BETAS, DISCOUNTS, LossConfig(), **scales)
    assert_equal_to_oracle(fast, slow, rtol=1e-9, atol=1e-9)


def test_networks_see_the_scaled_intrinsic_rewards() -> None:
    sequences = varied_sequences(10, VECTOR, 4)
    networks = recurrent_networks(VECTOR, 11)
    batch = batch_of(sequences, VECTOR, 4)
    kept = batch.intrinsic_rewards.copy()
    fast = update(networks, batch, intrinsic_scale=4.0)
    slow = slow_q_losses(sequences, networks[:2], networks[2:], BETAS, DISCOUNTS, LossConfig(), intrinsic_scale=4.0)
    assert_equal_to_oracle(fast, slow, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(batch.intrinsic_rewards, kept)


def test_default_loss_is_the_papers() -> None:
    config = LossConfig()
    assert (config.trace, config.trace_lambda, config.target_epsilon, config.mix) == ("retrace", 0.95, 0.01, "rescaled")
    assert (config.priority_eta, config.burn_in, config.normalize_td, config.normalize_intrinsic) == (0.9, 0, 0, 0)


# --- Which network learns from what ------------------------------------------------------------------------


def test_gradient_is_minus_the_td_error_of_the_action_taken_and_nothing_else() -> None:
    sequences, size = indexed(varied_sequences(11, INDEXED, 5))
    networks = tables(12, size)
    result = update(networks, batch_of(sequences, INDEXED, 5), td_scale=(2.0, 0.5))
    result.losses.sum().backward()
    for net, scale in ((0, 2.0), (1, 0.5)):
        expected = np.zeros((size, 3))
        for b, sequence in enumerate(sequences):
            for t in range(sequence.num_transitions):
                index = int(sequence.observations[t, 0])
                expected[index, sequence.actions[t]] = -float(result.td_errors[net, t, b]) / scale / len(sequences)
        np.testing.assert_allclose(networks[net].table.grad, expected, rtol=1e-9, atol=1e-12)
        assert networks[2 + net].table.grad is None, "a target network got a gradient"


@pytest.mark.parametrize("net", [0, 1])
def test_each_loss_trains_its_own_network_only(net: int) -> None:
    networks = recurrent_networks(VECTOR, 13)
    result = update(networks, batch_of(varied_sequences(14, VECTOR, 5), VECTOR, 5))
    own = list(networks[net].parameters())
    others = [parameter for other in networks if other is not networks[net] for parameter in other.parameters()]
    gradients = torch.autograd.grad(result.losses[net], own + others, allow_unused=True)
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients[: len(own)])
    assert all(gradient is None or not gradient.any() for gradient in gradients[len(own) :])


@pytest.mark.parametrize(("net", "others"), [(0, "intrinsic_rewards"), (1, "extrinsic_rewards")])
def test_the_other_networks_rewards_do_not_enter_the_targets(net: int, others: str) -> None:
    """Tables see no rewards, so what is left is the targets: a mixed reward would show."""
    sequences, size = indexed(varied_sequences(15, INDEXED, 5))
    networks = tables(16, size)
    before = update(networks, batch_of(sequences, INDEXED, 5))
    for sequence in sequences:
        setattr(sequence, others, getattr(sequence, others) + 10)
    after = update(networks, batch_of(sequences, INDEXED, 5))
    assert torch.equal(before.td_errors[net], after.td_errors[net])
    assert not torch.equal(before.td_errors[1 - net], after.td_errors[1 - net])


# --- Which policy is evaluated, by which network -----------------------------------------------------------


def one_transition(policy_index: int = 1, terminated: bool = False, rewards: tuple[float, float] = (0, 0)) -> Sequence:
    """State 0, action 0, state 1."""
    sequence = random_sequence(np.random.default_rng(0), INDEXED, 1, terminated)
    sequence.observations = np.array([[0.0], [1.0]], np.float32)
    sequence.actions[0], sequence.policy_index = 0, policy_index
    sequence.extrinsic_rewards[1], sequence.intrinsic_rewards[1] = rewards
    return sequence


def one_step_targets(networks: list[TableNetwork], sequence: Sequence) -> Tensor:
    """y_0 of both networks."""
    result = update(networks, batch_of([sequence], INDEXED, 1))
    return result.td_errors[:, 0, 0] + torch.stack([network.table[0, 0] for network in networks[:2]]).detach()


def test_both_networks_are_evaluated_under_the_greedy_policy_of_the_online_mix() -> None:
    """The extrinsic Q wants action 0 and the intrinsic Q action 1; the mix (beta 0.3) wants action 0, and with
    beta 1.5 action 1. Target networks disagree with all of them."""
    zeros = [0.0, 0.0, 0.0]
    online = [TableNetwork([zeros, [2.0, 1.0, 0.0]]), TableNetwork([zeros, [0.0, 2.0, 1.0]])]
    target = [TableNetwork([zeros, [1.0, 3.0, 5.0]]), TableNetwork([zeros, [0.5, 4.0, 6.0]])]
    for policy_index, greedy in ((0, 0), (1, 0), (2, 1)):
        probabilities = torch.full((3,), 0.01 / 3, dtype=torch.float64)
        probabilities[greedy] += 0.99
        targets = one_step_targets([*online, *target], one_transition(policy_index, rewards=(1.0, 2.0)))
        for net, reward in ((0, 1.0), (1, 2.0)):
            value = (probabilities * unrescale(target[net].table[1].detach())).sum()
            expected = rescale(reward + DISCOUNTS[policy_index] * value)
            torch.testing.assert_close(targets[net], expected, rtol=1e-9, atol=1e-9)


def test_targets_bootstrap_from_target_networks_and_only_their_policy_is_online() -> None:
    networks = tables(20, 2)
    sequence = one_transition()
    before = one_step_targets(networks, sequence)
    greedy = int((networks[0].table[1] + 0.3 * networks[1].table[1]).argmax())
    networks[0].table.data[1, greedy] += 5  # the same greedy action, another online value
    torch.testing.assert_close(one_step_targets(networks, sequence), before, rtol=0, atol=0)
    networks[2].table.data[1, greedy] += 1
    after = one_step_targets(networks, sequence)
    assert after[0] > before[0] + 0.1
    assert after[1] == before[1]


def test_online_targets_know_the_target_networks_only_as_the_centre_of_the_trust_region() -> None:
    networks = tables(20, 2)
    config = LossConfig(bootstrap="online", trust_region=0.5)
    batch = batch_of([one_transition()], INDEXED, 1)
    before = update(networks, batch, config)
    for network in networks[2:]:
        network.table.data += 100
    after = update(networks, batch, config)
    torch.testing.assert_close(after.td_errors, before.td_errors, rtol=0, atol=0)
    assert after.masked_share != before.masked_share
    after.losses.sum().backward()
    assert all(network.table.grad is None for network in networks[2:])
    # Nor does any reach what targets bootstrap from.
    assert not any(network.table.grad[1].any() for network in networks[:2])


# --- Ends of episodes and padding --------------------------------------------------------------------------


def test_terminated_end_pays_its_reward_and_nothing_after() -> None:
    networks = tables(21, 2)
    targets = one_step_targets(networks, one_transition(terminated=True, rewards=(3.0, 0.5)))
    torch.testing.assert_close(targets, rescale(torch.tensor([3.0, 0.5], dtype=torch.float64)), rtol=1e-9, atol=1e-9)


def test_truncated_end_bootstraps() -> None:
    networks = tables(22, 2)
    before = one_step_targets(networks, one_transition(rewards=(3.0, 0.5)))
    for target in networks[2:]:
        target.table.data[1] += 1.0
    after = one_step_targets(networks, one_transition(rewards=(3.0, 0.5)))
    assert (after > before + 0.1).all()


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("trace", ["retrace", "peng"])
def test_another_episode_behind_the_end_changes_nothing(trace: Trace, terminated: bool) -> None:
    """Column 0 ends after 3 of 6 steps; what lies behind is a whole episode with large rewards, with a
    mask of its own; the transition from the end into it is masked."""
    rng = np.random.default_rng(23)
    first, second = (random_sequence(rng, INDEXED, length, terminated) for length in (3, 2))
    (first, second), size = indexed([first, second])
    networks = tables(24, size)
    config = LossConfig(trace=trace)
    alone = update(networks, batch_of([first], INDEXED, 6), config)
    batch = batch_of([first], INDEXED, 6)
    for name in ("observations", "actions", "behaviour_probs", "extrinsic_rewards", "intrinsic_rewards"):
        getattr(batch, name)[4:, 0] = getattr(second, name)
    batch.extrinsic_rewards[4:] += 1000
    batch.mask[4:6, 0] = True
    joined = update(networks, batch, config)
    torch.testing.assert_close(joined.td_errors[:, :3], alone.td_errors[:, :3], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("burn_in", [0, 2])
@pytest.mark.parametrize("trace", ["retrace", "peng"])
def test_padding_changes_nothing(trace: Trace, burn_in: int) -> None:
    sequences = varied_sequences(25, VECTOR, 6)
    config = LossConfig(trace=trace, burn_in=burn_in)
    results, gradients = [], []
    for garbage in (False, True):
        networks = recurrent_networks(VECTOR, 26)
        batch = batch_of(sequences, VECTOR, 6)
        if garbage:
            fill_padding_with_garbage(batch, [sequence.num_transitions for sequence in sequences])
        result = update(networks, batch, config)
        result.losses.sum().backward()
        results.append(result)
        gradients.append([parameter.grad for network in networks[:2] for parameter in network.parameters()])
    clean, dirty = results
    for name in ("losses", "priorities", "mean_q", "max_abs_q", "mean_trace", "mask"):
        torch.testing.assert_close(getattr(clean, name), getattr(dirty, name), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(clean.td_errors * clean.mask, dirty.td_errors * dirty.mask, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)


def fill_padding_with_garbage(batch: SequenceBatch, lengths: list[int]) -> None:
    """Overwrite all that no transition uses: steps after the last one, and what is unused of the last one."""
    rng = np.random.default_rng(27)
    for b, n in enumerate(lengths):
        after = len(batch.actions) - (n + 1)
        batch.observations[n + 1 :, b] = rng.normal(size=(after, *batch.observations.shape[2:])) * 100
        batch.previous_actions[n + 1 :, b] = rng.integers(3, size=after)
        batch.extrinsic_rewards[n + 1 :, b] = 1e4
        batch.intrinsic_rewards[n + 1 :, b] = 1e5
        batch.terminated[n + 1 :, b] = rng.integers(2, size=after)
        batch.actions[n:, b] = rng.integers(3, size=after + 1)
        batch.behaviour_probs[n:, b] = 1e-3


def test_sequence_without_padding_gives_the_same_as_with() -> None:
    rng = np.random.default_rng(28)
    sequences = [random_sequence(rng, VECTOR, 3, terminated) for terminated in (True, False)]
    networks = recurrent_networks(VECTOR, 29)
    tight = update(networks, batch_of(sequences, VECTOR, 3))
    padded = update(networks, batch_of(sequences, VECTOR, 7))
    torch.testing.assert_close(tight.losses, padded.losses, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(tight.priorities, padded.priorities, rtol=1e-6, atol=1e-6)


# --- Burn-in -----------------------------------------------------------------------------------------------


def test_burn_in_steps_are_learned_only_where_an_episode_starts() -> None:
    rng = np.random.default_rng(30)
    starts, goes_on = (random_sequence(rng, VECTOR, 4, starts_episode=start) for start in (True, False))
    batch = batch_of([starts, goes_on], VECTOR, 5).to_torch()
    mask_before = batch.mask.clone()
    assert loss_mask(batch, 3)[:, 0].tolist() == [True, True, True, True, False]
    assert loss_mask(batch, 3)[:, 1].tolist() == [False, False, False, True, False]
    assert torch.equal(loss_mask(batch, 0), batch.mask)
    assert torch.equal(batch.mask, mask_before), "the batch's own mask was changed"


@pytest.mark.parametrize("burn_in", [0, 2])
def test_gradient_stops_at_the_burn_in_border(burn_in: int) -> None:
    batch = batch_of([random_sequence(np.random.default_rng(31), VECTOR, 5)], VECTOR, 5).to_torch()
    batch.observations.requires_grad_(True)
    batch.recurrent_state.requires_grad_(True)
    update(recurrent_networks(VECTOR, 32), batch, LossConfig(burn_in=burn_in)).losses.sum().backward()
    assert batch.observations.grad is not None
    reached = batch.observations.grad.abs().sum((1, 2)) > 0
    # The last step only bootstraps, from the target networks.
    assert reached.tolist() == [False] * burn_in + [True] * (5 - burn_in) + [False]
    state_gradient = batch.recurrent_state.grad
    assert (state_gradient is not None and bool(state_gradient.abs().sum() > 0)) == (burn_in == 0)


def test_burn_in_of_an_episodes_start_gets_gradient_from_its_own_steps() -> None:
    batch = batch_of([random_sequence(np.random.default_rng(33), VECTOR, 5, False, True)], VECTOR, 5).to_torch()
    batch.observations.requires_grad_(True)
    update(recurrent_networks(VECTOR, 34), batch, LossConfig(burn_in=2)).losses.sum().backward()
    assert batch.observations.grad is not None
    assert (batch.observations.grad[:5].abs().sum((1, 2)) > 0).all()


# --- Priorities --------------------------------------------------------------------------------------------


def test_priority_by_hand() -> None:
    td = torch.tensor([[[1.0, 2.0, 9.0], [-3.0, 0.0, 9.0]], [[-2.0, 1.0, 9.0], [4.0, 50.0, 9.0]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    beta = torch.tensor([0.5, 0.1, 0.3])
    # Column 0: |1| + 0.5 |2| = 2 and 3 + 0.5 * 4 = 5; column 1: 2 + 0.1 alone; column 2: no valid step.
    expected = torch.tensor([0.9 * 5 + 0.1 * 3.5, 2.1, 0.0])
    torch.testing.assert_close(sequence_priorities(td, mask, beta, 0.9), expected)


def test_priorities_and_td_errors_carry_no_gradient() -> None:
    networks = recurrent_networks(VECTOR, 35)
    result = update(networks, batch_of(varied_sequences(36, VECTOR, 4), VECTOR, 4))
    assert result.losses.requires_grad
    for name in ("td_errors", "priorities", "mean_q", "max_abs_q", "mean_trace"):
        assert not getattr(result, name).requires_grad, name


# --- Embedding and RND -------------------------------------------------------------------------------------


def test_last_transitions_of_long_short_and_empty_sequences() -> None:
    lengths = [6, 5, 2, 1, 0]
    mask = torch.tensor([[t < length for length in lengths] for t in range(6)])
    t, b, counted = last_valid(mask, 3)
    assert len(t) == 3 * 5
    found = sorted(zip(b[counted].tolist(), t[counted].tolist(), strict=True))
    assert found == [(0, 3), (0, 4), (0, 5), (1, 2), (1, 3), (1, 4), (2, 0), (2, 1), (3, 0)]
    t, b, counted = last_valid(mask, 100)
    assert int(counted.sum()) == sum(lengths)
    assert mask[t, b][counted].all()
    assert not t[~counted].any(), "what is missing is a copy of the first step"


def moves_on_a_ring(rng: np.random.Generator, count: int, cells: int = 4) -> Transitions:
    """One-hot cells before and after a move by 0, 1 or 2: neither cell alone says which."""
    cell, action = rng.integers(cells, size=count), rng.integers(3, size=count)
    eye = torch.eye(cells)
    counted = torch.ones(count, dtype=torch.bool)
    return Transitions(eye[cell], eye[(cell + action) % cells], torch.from_numpy(action), counted)


def embedding_loss(network: EmbeddingNetwork, moves: Transitions) -> tuple[Tensor, Tensor]:
    """(loss, share of right guesses) of `inverse_dynamics`."""
    term = inverse_dynamics(SimpleNamespace(transitions=moves, networks=SimpleNamespace(embedding=network)))  # type: ignore[arg-type]
    return term.loss, term.figures["embedding_accuracy"].value


def test_embedding_learns_to_tell_actions_from_consecutive_observations() -> None:
    torch.manual_seed(0)
    network = EmbeddingNetwork(VECTOR, tiny_network())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    rng = np.random.default_rng(40)
    first_loss = None
    for _ in range(250):
        loss, accuracy = embedding_loss(network, moves_on_a_ring(rng, 32))
        first_loss = float(loss.detach()) if first_loss is None else first_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first_loss == pytest.approx(np.log(3), abs=0.3)
    loss, accuracy = embedding_loss(network, moves_on_a_ring(rng, 300))
    assert accuracy > 0.95
    assert loss < 0.3
    assert not accuracy.requires_grad


def test_embedding_loss_is_the_mean_cross_entropy_and_reaches_the_torso() -> None:
    torch.manual_seed(1)
    network = EmbeddingNetwork(VECTOR, tiny_network())
    moves = moves_on_a_ring(np.random.default_rng(41), 10)
    loss, accuracy = embedding_loss(network, moves)
    actions = moves.actions
    logits = network.action_logits(network(moves.observations), network(moves.next_observations)).detach().double()
    chosen = [float(logits[i].exp()[action] / logits[i].exp().sum()) for i, action in enumerate(actions)]
    assert float(loss.detach()) == pytest.approx(-np.mean(np.log(chosen)), rel=1e-5)
    assert float(accuracy) == pytest.approx(np.mean([int(logits[i].argmax()) == a for i, a in enumerate(actions)]))
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.torso.parameters())


def test_rnd_loss_is_the_mean_error_and_reaches_the_predictor_only() -> None:
    torch.manual_seed(2)
    network = RandomNetworkDistillation(VECTOR, tiny_network())
    observations = torch.randn(7, 4)
    moves = Transitions(observations[:0], observations, torch.zeros(7, dtype=torch.int64), torch.ones(7) > 0)
    loss = rnd(SimpleNamespace(transitions=moves, networks=SimpleNamespace(rnd=network))).loss  # type: ignore[arg-type]
    x = network.normalizer(observations)
    expected = (network.predictor(x) - network.target(x)).square().sum() / (7 * 8)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(parameter.grad is None for parameter in network.target.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.predictor.parameters())
