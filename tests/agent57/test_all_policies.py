"""The shared network's update against a slow oracle, one policy and one step at a time (MEME section 4).

The oracle works on Python floats and unpadded sequences; its targets, traces and trust region are those of
`tests/oracles.py`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agent57.all_policies import combined_q, policy_weights
from agent57.config import LossConfig, NetworkConfig
from agent57.errors import SequenceErrors
from agent57.networks import QNetwork, SharedQNetwork
from agent57.networks.shared_network import POLICY
from agent57.scales import Scales
from agent57.structures import NO_ACTION, SHARED_NAMES, Sequence
from agent57.terms.all_policies_td import all_policies_td, distillation
from agent57.terms.q_td import q_td
from agent57.terms.term import Term, Update
from tests import oracles
from tests.loss_oracle import (
    INDEXED,
    VECTOR,
    TableNetwork,
    batch_of,
    indexed,
    outputs_of,
    random_sequence,
    tiny_network,
    varied_sequences,
)

BETAS = torch.tensor([0.0, 0.3, 1.5], dtype=torch.float64)
DISCOUNTS = torch.tensor([0.99, 0.95, 0.8], dtype=torch.float64)
N = len(BETAS)


def shared_network(head: bool = True, seed: int = 0, num_policies: int = N, **config: Any) -> SharedQNetwork:
    torch.manual_seed(seed)
    network_config = dataclasses.replace(tiny_network(), kind="shared", policy_head=head, **config)
    network = SharedQNetwork(VECTOR, num_policies, network_config)
    for layers in (network.value_head, network.advantage_head, network.policy_head):
        if layers is not None:
            layers[-1].weight.data *= 8
    return network


def tables(size: int, head: bool, seed: int = 0) -> tuple[TableNetwork, TableNetwork]:
    """Online and target outputs [size, 2 or 3, N, 3], exact; the target's close by, so that the region has an edge."""
    rng = np.random.default_rng(seed)
    online = rng.normal(size=(size, 3 if head else 2, N, 3)) * 3
    return TableNetwork(online), TableNetwork(online + rng.normal(size=online.shape) * 0.4)


def term_of(
    online: nn.Module,
    target: nn.Module,
    sequences: list[Sequence],
    config: LossConfig,
    scales: Scales | None = None,
    spec: Any = INDEXED,
    betas: Tensor = BETAS,
    discounts: Tensor = DISCOUNTS,
) -> tuple[Term, SequenceErrors]:
    scales = scales or Scales(len(betas), SHARED_NAMES).double()
    networks = SimpleNamespace(q_networks=(online,), scales=scales)
    length = max(sequence.num_transitions for sequence in sequences)
    batch = batch_of(sequences, spec, length).to_torch()
    update = Update(networks, (target,), batch, None, betas, discounts, config)  # type: ignore[arg-type]
    return all_policies_td(update)


# --- The oracle --------------------------------------------------------------------------------------------


@dataclass
class Slow:
    loss: float = 0.0
    td: list[list[list[float]]] = field(default_factory=list)
    """[b][t][j]."""
    priorities: list[float] = field(default_factory=list)
    masked: list[bool] = field(default_factory=list)
    kl_masked: list[bool] = field(default_factory=list)
    traces: list[float] = field(default_factory=list)


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    largest = max(logits)
    weights = [math.exp((value - largest) / temperature) for value in logits]
    return [weight / sum(weights) for weight in weights]


def slow_update(
    online: Any, target: Any, sequences: list[Sequence], config: LossConfig, sigmas: list[float], head: bool
) -> Slow:
    slow, eps = Slow(), config.rescale_epsilon
    for sequence in sequences:
        n = sequence.num_transitions
        warm = 0 if sequence.previous_actions[0] == NO_ACTION else config.burn_in
        valid = [t >= warm for t in range(n)]
        now, centre = outputs_of(online, sequence), outputs_of(target, sequence)
        errors = [[0.0] * N for _ in range(n)]
        sizes = [0.0] * n
        for j in range(N):
            beta, weight = float(BETAS[j]), (1 - config.mixture_eta) / N
            weight += config.mixture_eta if j == sequence.policy_index else 0.0

            def combined(rows: list[Any], j: int = j, beta: float = beta) -> list[list[float]]:
                return [[e + beta * i for e, i in zip(row[0][j], row[1][j], strict=True)] for row in rows]

            q, centre_q = combined(now), combined(centre)
            if head:
                policy = [softmax(row[2][j], config.policy_temperature) for row in now]
            else:
                policy = [oracles.epsilon_greedy(row, config.target_epsilon) for row in q]
            rewards = zip(sequence.extrinsic_rewards, sequence.intrinsic_rewards, strict=True)
            bootstrap_q = q if config.bootstrap == "online" else centre_q
            arrays = {
                "target_q": [[row] for row in bootstrap_q],
                "target_policy": [[row] for row in policy],
                "actions": [[int(action)] for action in sequence.actions],
                "rewards": [[float(e) + beta * float(i)] for e, i in rewards],
                "discounts": [[0.0 if sequence.terminated and t == n else float(DISCOUNTS[j])] for t in range(n + 1)],
                "mask": [[1]] * n,
            }
            for t in range(n):
                action = int(sequence.actions[t])
                if config.trace == "soft_watkins":
                    y = oracles.soft_watkins_target(
                        t, 0, **arrays, compare_q=[[row] for row in q],
                        lambda_=config.trace_lambda, kappa=config.kappa, eps=eps,
                    )  # fmt: skip
                    trace = oracles.soft_watkins_coefficient(q[t], policy[t], action, config.trace_lambda, config.kappa)
                else:
                    mu = [[float(probability)] for probability in sequence.behaviour_probs]
                    y = oracles.retrace_target(t, 0, **arrays, behaviour_probs=mu, lambda_=config.trace_lambda, eps=eps)
                    trace = config.trace_lambda * min(1.0, policy[t][action] / mu[t][0])
                errors[t][j] = (y - q[t][action]) / sigmas[j]
                sizes[t] += weight * abs(errors[t][j])
                if not valid[t]:
                    continue
                slow.traces.append(trace)
                outside = config.trust_region is not None and oracles.outside_trust_region(
                    q[t][action], centre_q[t][action], y, sigmas[j], config.trust_region
                )
                slow.masked.append(outside)
                slow.loss += 0.0 if outside else weight * 0.5 * errors[t][j] ** 2 / len(sequences)
                if head:
                    log_policy = [math.log(p) for p in softmax(now[t][2][j])]
                    of_target = softmax(centre[t][2][j])
                    kl = sum(p * (math.log(p) - lp) for p, lp in zip(of_target, log_policy, strict=True))
                    slow.kl_masked.append(config.distillation_kl is not None and kl > config.distillation_kl)
                    aim = oracles.epsilon_greedy(q[t], config.distillation_epsilon)
                    if not slow.kl_masked[-1]:
                        entropy = -sum(p * lp for p, lp in zip(aim, log_policy, strict=True))
                        slow.loss += weight * entropy / len(sequences)
        slow.td.append(errors)
        counted = [sizes[t] for t in range(n) if valid[t]]
        eta = config.priority_eta
        slow.priorities.append(eta * max(counted) + (1 - eta) * sum(counted) / len(counted) if counted else 0.0)
    return slow


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize(
    ("trace", "bootstrap", "alpha"),
    [
        ("soft_watkins", "online", 0.3),
        ("soft_watkins", "target", None),
        ("retrace", "online", None),
        ("retrace", "target", 0.1),
    ],
)  # fmt: skip
def test_the_update_of_tables_equals_the_oracle(trace: str, bootstrap: Any, alpha: float | None, head: bool) -> None:
    sequences, size = indexed(varied_sequences(3, INDEXED, 6))
    online, target = tables(size, head)
    config = LossConfig(
        trace=trace, bootstrap=bootstrap, trust_region=alpha, kappa=0.2, mixture_eta=0.4, distillation_kl=0.05
    )
    scales = Scales(N, SHARED_NAMES).double()
    scales.td.copy_(torch.tensor([0.5, 2.0, 1.25]))
    term, errors = term_of(online, target, sequences, config, scales)
    slow = slow_update(online, target, sequences, config, [0.5, 2.0, 1.25], head)
    for b, expected in enumerate(slow.td):
        np.testing.assert_allclose(errors.td[: len(expected), b], expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(term.loss.item(), slow.loss, rtol=1e-9)
    np.testing.assert_allclose(errors.priorities, slow.priorities, rtol=1e-9)
    np.testing.assert_allclose(term.figures["trace_coefficient"].value, np.mean(slow.traces), rtol=1e-9)
    if alpha is not None:
        assert 0.02 < np.mean(slow.masked) < 0.9
        np.testing.assert_allclose(term.figures["masked_share"].value, np.mean(slow.masked), rtol=1e-6)
    if head:
        assert 0.02 < np.mean(slow.kl_masked) < 0.98
        np.testing.assert_allclose(term.figures["policy_masked_share"].value, np.mean(slow.kl_masked), rtol=1e-6)


@pytest.mark.parametrize("burn_in", [0, 2])
def test_the_update_of_a_recurrent_network_equals_the_oracle(burn_in: int) -> None:
    sequences = varied_sequences(5, VECTOR, 6)
    online, target = shared_network(seed=1), shared_network(seed=2)
    config = LossConfig(trace="soft_watkins", bootstrap="online", trust_region=2.0, burn_in=burn_in)
    term, errors = term_of(
        online, target, sequences, config, Scales(N, SHARED_NAMES), VECTOR, BETAS.float(), DISCOUNTS.float()
    )
    slow = slow_update(online, target, sequences, config, [1.0] * N, head=True)
    for b, expected in enumerate(slow.td):
        np.testing.assert_allclose(errors.td[: len(expected), b], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(term.loss.item(), slow.loss, rtol=1e-4)
    np.testing.assert_allclose(errors.priorities, slow.priorities, rtol=1e-3)


def test_sigma_is_the_batchs_own_where_that_is_larger() -> None:
    """Of all sequences, not only of those that a policy played."""
    sequences, size = indexed(varied_sequences(3, INDEXED, 6))
    online, target = tables(size, head=False)
    config = LossConfig(trace="soft_watkins", normalize_td=True, td_scale="policy")
    plain = slow_update(online, target, sequences, LossConfig(trace="soft_watkins"), [1.0] * N, head=False)
    scales = Scales(N, SHARED_NAMES).double()
    scales.td.copy_(torch.tensor([1e3, 1e-3, 1e-3]))
    _, errors = term_of(online, target, sequences, config, scales)
    for j in range(N):
        raw = [row[j] for of_sequence in plain.td for row in of_sequence]
        expected = max(float(scales.td[j]), float(np.std(raw)), 0.01)
        assert float(errors.sigma[..., j].max()) == pytest.approx(expected, rel=1e-9)
    assert float(errors.sigma[..., 0].max()) == 1e3


# --- All policies learn from every sequence ------------------------------------------------------------------


def test_weights_of_policies() -> None:
    played = torch.tensor([2, 0])
    assert policy_weights(played, 4, 1.0).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert policy_weights(played, 4, 0.0).tolist() == [[0.25] * 4] * 2
    torch.testing.assert_close(policy_weights(played, 4, 0.5).sum(1), torch.ones(2))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_loss_is_that_of_the_policy_that_played_or_the_mean_of_all(eta: float) -> None:
    sequences, size = indexed(varied_sequences(3, INDEXED, 6))
    online, target = tables(size, head=False)
    term, errors = term_of(online, target, sequences, LossConfig(mixture_eta=eta))
    squares = (0.5 * errors.td.square() * errors.mask.unsqueeze(-1)).sum(0)
    played = torch.tensor([sequence.policy_index for sequence in sequences])
    expected = squares[range(len(sequences)), played].mean() if eta == 1 else squares.mean()
    assert len(set(played.tolist())) > 1
    torch.testing.assert_close(term.loss.detach(), expected, rtol=1e-12, atol=0)


def test_a_policys_errors_know_its_own_beta_and_gamma_only() -> None:
    sequences, size = indexed(varied_sequences(3, INDEXED, 6))
    online, target = tables(size, head=True)
    _, before = term_of(online, target, sequences, LossConfig())
    for betas, discounts in (
        (BETAS + torch.tensor([0, 0, 1]), DISCOUNTS),
        (BETAS, DISCOUNTS - torch.tensor([0, 0, 0.1])),
    ):
        _, after = term_of(online, target, sequences, LossConfig(), betas=betas, discounts=discounts)
        assert torch.equal(after.td[..., :2], before.td[..., :2])
        assert not torch.equal(after.td[..., 2], before.td[..., 2])


def test_the_recurrent_state_is_the_same_whichever_policy_plays() -> None:
    network = shared_network()
    state = (torch.randn(2, 8), torch.randn(2, 8))
    inputs = (torch.randn(2, 4), torch.tensor([0, 2]), torch.randn(2), torch.randn(2))
    results = [network.step(*inputs, torch.tensor([j, j]), state) for j in range(N)]
    for output, (h, c) in results[1:]:
        assert torch.equal(output, results[0][0])
        assert torch.equal(h, results[0][1][0])
        assert torch.equal(c, results[0][1][1])
    assert results[0][0].shape == (2, 3, N, 3)


def test_permuting_the_policies_permutes_what_they_learn() -> None:
    sequences, size = indexed(varied_sequences(3, INDEXED, 6))
    online, target = tables(size, head=True)
    order = [2, 0, 1]
    _, before = term_of(online, target, sequences, LossConfig())
    for network in (online, target):
        network.table.data = network.table.data[:, :, order]
    for sequence in sequences:
        sequence.policy_index = order.index(sequence.policy_index)
    _, after = term_of(online, target, sequences, LossConfig(), betas=BETAS[order], discounts=DISCOUNTS[order])
    torch.testing.assert_close(after.td, before.td[..., order], rtol=1e-12, atol=0)
    torch.testing.assert_close(after.priorities, before.priorities, rtol=1e-12, atol=0)


# --- The combined loss ---------------------------------------------------------------------------------------


def test_the_intrinsic_values_get_beta_times_the_gradient_of_the_extrinsic_ones() -> None:
    sequences, size = indexed(varied_sequences(3, INDEXED, 6))
    online, target = tables(size, head=False)
    term_of(online, target, sequences, LossConfig())[0].loss.backward()
    gradient = online.table.grad
    assert gradient is not None
    assert gradient[:, 0].abs().sum((0, 2)).gt(0).all()
    torch.testing.assert_close(gradient[:, 1], BETAS[:, None] * gradient[:, 0], rtol=1e-12, atol=0)
    assert not gradient[:, 1, 0].any(), "beta_0 is 0"
    assert target.table.grad is None


def test_both_values_reach_the_one_torso() -> None:
    for part in (0, 1):
        network = shared_network()
        observations = torch.randn(1, 4)
        zeros = torch.zeros(1)
        state = (torch.zeros(1, 8), torch.zeros(1, 8))
        output, _ = network.step(observations, torch.tensor([0]), zeros, zeros, torch.tensor([0]), state)
        output[:, part].sum().backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in network.torso.parameters())


def test_left_out_steps_have_no_gradient_and_target_networks_only_a_say_in_that() -> None:
    sequences, size = indexed(varied_sequences(3, INDEXED, 6))
    online, target = tables(size, head=False)
    config = LossConfig(bootstrap="online", trust_region=0.3)
    _, before = term_of(online, target, sequences, config)
    term, errors = term_of(online, TableNetwork(target.table.detach() + 50), sequences, config)
    torch.testing.assert_close(errors.td, before.td, rtol=0, atol=0)
    torch.testing.assert_close(errors.priorities, before.priorities, rtol=0, atol=0)
    term.loss.backward()
    # All values lie below the centre now: those whose target is below them too are left out.
    out = (errors.td < 0) & errors.mask.unsqueeze(-1)
    assert 0 < float(term.figures["masked_share"].value) < 1
    assert float(term.figures["masked_share"].value) == pytest.approx(
        float(out.sum() / (errors.mask.sum() * N)), rel=1e-6
    )


# --- Distillation --------------------------------------------------------------------------------------------


def test_distillation_is_cross_entropy_by_hand_and_its_direction_is_from_the_target_network() -> None:
    logits = torch.tensor([[[[0.0, 0.0], [2.0, 0.0]]]], requires_grad=True)  # T 1, B 1, N 2, A 2
    q = torch.tensor([[[[1.0, 2.0], [1.0, 2.0]]]])
    centre = torch.tensor([[[[0.0, 0.0], [-2.0, 0.0]]]])
    config = LossConfig(distillation_epsilon=0.1, distillation_kl=None)
    weights = torch.tensor([[0.25, 0.75]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    loss, figures = distillation(logits, q, centre, mask, weights, config)
    second = [math.log(p) for p in softmax([2.0, 0.0])]
    expected = 0.25 * math.log(2) - 0.75 * (0.05 * second[0] + 0.95 * second[1])
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert float(figures["policy_agreement"].value) == 0.0  # ties go to the first action
    of_target = softmax([-2.0, 0.0])
    forward = sum(p * (math.log(p) - lp) for p, lp in zip(of_target, second, strict=True))
    assert float(figures["policy_divergence"].value) == pytest.approx(forward / 2, rel=1e-5)
    # An asymmetric pair: KL(pi_T || pi) and KL(pi || pi_T) on either side of the limit.
    narrow, wide = (
        torch.tensor([[[[8.0, 0.0]]]], requires_grad=True),
        torch.tensor([[[[0.0, 0.0]]]], requires_grad=True),
    )
    for online, of_target, kept in ((narrow, wide, False), (wide, narrow, True)):
        one = LossConfig(distillation_kl=2.0)
        loss, figures = distillation(online, q[:, :, :1], of_target.detach(), mask, torch.ones(1, 1), one)
        assert float(figures["policy_masked_share"].value) == (0.0 if kept else 1.0)
        online.grad = None
        loss.backward()
        assert bool(online.grad.any()) is kept


def test_the_policy_head_trains_nothing_but_itself() -> None:
    network = shared_network()
    zeros, state = torch.zeros(3), (torch.randn(3, 8), torch.randn(3, 8))
    output, _ = network.step(torch.randn(3, 4), torch.tensor([0, 1, 2]), zeros, zeros, torch.tensor([0, 1, 2]), state)
    output[:, POLICY].square().sum().backward()
    touched = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {"policy_head"}


def test_the_policy_head_comes_to_want_what_the_values_want() -> None:
    sequences, size = indexed(varied_sequences(3, INDEXED, 6))
    online, _ = tables(size, head=True)
    online.table.data[:, POLICY] = 0.0
    config = LossConfig(bootstrap="online", distillation_kl=None)
    values = online.table.detach()[:, :2].clone()
    for _ in range(300):
        online.table.grad = None
        term, errors = term_of(online, TableNetwork(online.table.detach()), sequences, config)
        term.loss.backward()
        online.table.data -= 2.0 * online.table.grad
        online.table.data[:, :2] = values
    assert float(term.figures["policy_agreement"].value) == 1.0
    assert errors.mask.any()


# --- Beside the single network -------------------------------------------------------------------------------


@pytest.mark.parametrize("trace", ["peng", "retrace"])
def test_one_policy_is_the_single_network(trace: str) -> None:
    """N 1, beta 0, eta 1, no region, no scale, no head: the single network's weights give its targets and gradients."""
    rng = np.random.default_rng(0)
    sequences = [random_sequence(rng, VECTOR, n, end, start, num_policies=1) for n, end, start in
                 itertools.product((6, 3), (True, False), (True, False))]  # fmt: skip
    betas, discounts = torch.zeros(1), torch.tensor([0.97])
    config = LossConfig(trace=trace, mixture_eta=1.0)
    pairs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        single_config: NetworkConfig = dataclasses.replace(tiny_network(), kind="single")
        single, shared = QNetwork(VECTOR, 1, single_config), shared_network(head=False, seed=seed, num_policies=1)
        torso_size, actions = single_config.torso_size, VECTOR.num_actions
        shared.torso.load_state_dict(single.torso.state_dict())
        # The index is always 0: its column is one more bias.
        w_ih = single.lstm.weight_ih_l0.data
        shared.lstm.weight_ih_l0.data = torch.cat([w_ih[:, :torso_size], w_ih[:, torso_size + 1 :]], 1)
        shared.lstm.weight_hh_l0.data = single.lstm.weight_hh_l0.data.clone()
        shared.lstm.bias_ih_l0.data = single.lstm.bias_ih_l0.data + w_ih[:, torso_size]
        shared.lstm.bias_hh_l0.data = single.lstm.bias_hh_l0.data.clone()
        for name, outputs in (("value_head", 1), ("advantage_head", actions)):
            theirs, ours = getattr(single, name), getattr(shared, name)
            ours[0].load_state_dict(theirs[0].state_dict())
            ours[2].weight.data[:outputs], ours[2].bias.data[:outputs] = theirs[2].weight.data, theirs[2].bias.data
        pairs.append((single, shared))
    (single, shared), (single_target, shared_target) = pairs
    ours, our_errors = term_of(
        shared, shared_target, sequences, config, Scales(1, SHARED_NAMES), VECTOR, betas, discounts
    )
    batch = batch_of(sequences, VECTOR, 6).to_torch()
    networks = SimpleNamespace(q_networks=(single,), scales=Scales())
    theirs, their_errors = q_td(Update(networks, (single_target,), batch, None, betas, discounts, config))  # type: ignore[arg-type]
    for one, other in (
        (our_errors.targets[..., 0] * our_errors.mask, their_errors.targets[0] * their_errors.mask),
        (our_errors.td[..., 0] * our_errors.mask, their_errors.td[0] * their_errors.mask),
        (ours.loss, theirs.loss),
        (our_errors.priorities, their_errors.priorities),
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    ours.loss.backward()
    theirs.loss.backward()
    for one, other in zip(shared.torso.parameters(), single.torso.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shared.lstm.weight_hh_l0.grad, single.lstm.weight_hh_l0.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        shared.advantage_head[2].weight.grad[: VECTOR.num_actions],
        single.advantage_head[2].weight.grad,
        rtol=1e-4,
        atol=1e-5,
    )


def test_combined_values_are_linear_in_the_networks_own_units() -> None:
    outputs = torch.randn(4, 3, N, 5, dtype=torch.float64)
    expected = [
        [[float(outputs[b, 0, j, a] + BETAS[j] * outputs[b, 1, j, a]) for a in range(5)] for j in range(N)]
        for b in range(4)
    ]
    np.testing.assert_allclose(combined_q(outputs, BETAS), expected, rtol=1e-12)
