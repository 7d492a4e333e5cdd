"""Slow oracles of the whole Q-update and of torsos, and the small random inputs that they are compared on.

Written from DESIGN section 4 ("Learning", "Acting") and the papers: one unpadded sequence at a time, one step at
a time, over Python floats. Only tests call it.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agent57.config import LossConfig, NetworkConfig
from agent57.errors import both_networks
from agent57.scales import Scales
from agent57.structures import (
    NET_NAMES,
    NO_ACTION,
    EnvironmentSpec,
    Sequence,
    SequenceBatch,
    SequenceSpec,
    fill_column,
    padded_batch,
)
from agent57.terms.q_td import q_td
from agent57.terms.term import Update
from agent57.torsos import Torso
from tests import oracles

VECTOR = EnvironmentSpec((4,), "float32", 1.0, 3)
SMALL_IMAGE = EnvironmentSpec((3, 12, 12), "uint8", 255.0, 3)
LSTM_SIZE = 8


def tiny_network() -> NetworkConfig:
    return NetworkConfig(
        conv_filters=(4, 5, 6),
        torso_size=16,
        lstm_size=LSTM_SIZE,
        head_size=8,
        embedding_size=4,
        embedding_hidden=16,
        rnd_size=8,
    )


def observations_of(spec: EnvironmentSpec, *leading: int, seed: int = 0) -> Tensor:
    """Random observations [*leading, *obs]: bytes for images, standard normal numbers otherwise."""
    rng = np.random.default_rng(seed)
    if spec.observation_dtype == "uint8":
        return torch.from_numpy(rng.integers(0, 256, (*leading, *spec.observation_shape)).astype(np.uint8))
    return torch.from_numpy(rng.normal(size=(*leading, *spec.observation_shape)).astype(np.float32))


def plain_convolutions(torso: Torso, inputs: Tensor) -> Tensor:
    """The torso's function through ``nn.Conv2d`` alone, contiguous."""
    x = inputs.contiguous()
    for layer in torso.layers:
        if isinstance(layer, nn.Conv2d):
            plain = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
            plain.load_state_dict({name: value.contiguous() for name, value in layer.state_dict().items()})
            layer = plain
        x = layer(x)
    return x


class TableNetwork(nn.Module):
    """Q-values in float64 looked up by observations [.., 1] that hold an index: exact, with known gradients.

    Rewards, previous actions and the recurrent state do not enter.
    """

    def __init__(self, table: Any) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.as_tensor(np.asarray(table), dtype=torch.float64))

    def forward(self, observations: Tensor, *inputs: Any) -> tuple[Tensor, Any]:
        return self.table[observations.squeeze(-1).long()], inputs[4]

    step = forward

    def torso_inputs(self, observations: Tensor) -> Tensor:
        return observations


# --- Random sequences --------------------------------------------------------------------------------------


def random_sequence(
    rng: np.random.Generator,
    spec: EnvironmentSpec,
    length: int,
    terminated: bool = False,
    starts_episode: bool = False,
    num_policies: int = 3,
    reward_scale: float = 2.0,
) -> Sequence:
    """``length`` transitions; one that starts an episode has no previous action, no reward and a zero state."""
    steps = length + 1
    if spec.observation_dtype == "uint8":
        observations = rng.integers(0, 256, (steps, *spec.observation_shape)).astype(np.uint8)
    else:
        observations = rng.normal(size=(steps, *spec.observation_shape)).astype(np.float32)
    actions = rng.integers(spec.num_actions, size=steps)
    rewards = (rng.normal(size=(2, steps)) * reward_scale).astype(np.float32)
    state = rng.normal(size=(2, 2, LSTM_SIZE)).astype(np.float32) * 0.5
    first_action = int(rng.integers(spec.num_actions))
    if starts_episode:
        first_action, rewards[:, 0], state = NO_ACTION, 0.0, np.zeros_like(state)
    return Sequence(
        observations=observations,
        previous_actions=np.concatenate([[first_action], actions[:-1]]),
        actions=actions,
        behaviour_probs=rng.uniform(0.05, 1.0, steps).astype(np.float32),
        extrinsic_rewards=rewards[0],
        intrinsic_rewards=np.abs(rewards[1]),
        terminated=terminated,
        policy_index=int(rng.integers(num_policies)),
        recurrent_state=state,
    )


def varied_sequences(seed: int, spec: EnvironmentSpec, trace_length: int, num_policies: int = 3) -> list[Sequence]:
    """Whole and cut off; whole and terminal; short and terminal; short and truncated; one transition. Of these
    the second, the third and the last start an episode."""
    rng = np.random.default_rng(seed)
    short = max(1, trace_length - 2)
    kinds = [
        (trace_length, False, False),
        (trace_length, True, True),
        (short, True, True),
        (short, False, False),
        (1, True, True),
    ]
    return [random_sequence(rng, spec, *kind, num_policies=num_policies) for kind in kinds]


def scales_of(td: SequenceOf[float], intrinsic: float) -> Scales:
    """Scales with these values, in double precision."""
    scales = Scales().double()
    scales.td.copy_(torch.tensor(td, dtype=torch.float64))
    scales.intrinsic.fill_(intrinsic)
    return scales


def fill_whole(batch: SequenceBatch[np.ndarray], column: int, sequence: Sequence) -> None:
    """`fill_column`, and the observations."""
    batch.observations[: sequence.num_transitions + 1, column] = sequence.observations
    fill_column(batch, column, sequence)


def batch_of(sequences: SequenceOf[Sequence], spec: EnvironmentSpec, trace_length: int) -> SequenceBatch:
    """The padded batch of ``sequences``, as numpy arrays."""
    batch = padded_batch(SequenceSpec(spec, trace_length, LSTM_SIZE), len(sequences))
    for column, sequence in enumerate(sequences):
        fill_whole(batch, column, sequence)
    return batch


def indexed(sequences: SequenceOf[Sequence]) -> tuple[list[Sequence], int]:
    """The sequences with an index of its own as each step's observation, and how many indices there are."""
    total = 0
    for sequence in sequences:
        steps = len(sequence.actions)
        sequence.observations = np.arange(total, total + steps, dtype=np.float32)[:, None]
        total += steps
    return list(sequences), total


INDEXED = EnvironmentSpec((1,), "float32", 1.0, 3)


# --- The oracle --------------------------------------------------------------------------------------------


@dataclass
class SlowLosses:
    """As `FastLosses`, but ``td_errors``[net][b][t] and ``valid``[b][t] have no padding."""

    losses: list[float]
    td_errors: list[list[list[float]]]
    valid: list[list[bool]]
    priorities: list[float]
    mean_q: list[float]
    max_abs_q: list[float]
    mean_trace: float
    masked_share: float


def outputs_of(network: Any, sequence: Sequence, net: int = 0) -> list[Any]:
    """What a network says at each step, as nested lists: from single steps, starting at the stored recurrent state."""
    state = tuple(torch.from_numpy(sequence.recurrent_state[net, part])[None] for part in (0, 1))
    rows = []
    with torch.no_grad():
        for t in range(len(sequence.actions)):
            output, state = network.step(
                torch.from_numpy(sequence.observations[t : t + 1]),
                torch.tensor([int(sequence.previous_actions[t])]),
                torch.tensor([float(sequence.extrinsic_rewards[t])]),
                torch.tensor([float(sequence.intrinsic_rewards[t])]),
                torch.tensor([sequence.policy_index]),
                state,
            )
            rows.append(output[0].tolist())
    return rows


@dataclass
class FastLosses:
    """What `q_td` says of a batch; ``losses`` [2] carry gradients."""

    losses: Tensor
    td_errors: Tensor
    mask: Tensor
    priorities: Tensor
    mean_q: Tensor
    max_abs_q: Tensor
    mean_trace: Tensor
    masked_share: Tensor


def fast_q_losses(
    online: tuple[Any, ...],
    target: tuple[Any, ...],
    batch: SequenceBatch,
    betas: Tensor,
    discounts: Tensor,
    config: LossConfig,
    scales: Scales | None = None,
) -> FastLosses:
    """`q_td` of these networks, the extrinsic one first; a single network's second half is 0."""
    networks = SimpleNamespace(q_networks=online, scales=scales or Scales())
    term, errors = q_td(Update(networks, target, batch, None, betas, discounts, config))  # type: ignore[arg-type]

    def of_both(figure: str) -> Tensor:
        values = [term.figures[f"{name}_{figure}"].value for name in NET_NAMES[: len(online)]]
        return both_networks(values)

    assert torch.equal(term.loss, of_both("loss").sum())
    return FastLosses(
        losses=of_both("loss"),
        td_errors=errors.td,
        mask=errors.mask,
        priorities=errors.priorities,
        mean_q=of_both("mean_q"),
        max_abs_q=of_both("max_abs_q"),
        mean_trace=term.figures["trace_coefficient"].value,
        masked_share=term.figures["masked_share"].value if "masked_share" in term.figures else torch.zeros(()),
    )


def slow_q_losses(
    sequences: SequenceOf[Sequence],
    online: SequenceOf[Any],
    target: SequenceOf[Any],
    betas: SequenceOf[float],
    discounts: SequenceOf[float],
    config: LossConfig,
    td_scale: SequenceOf[float] = (1.0, 1.0),
    intrinsic_scale: float = 1.0,
) -> SlowLosses:
    """1/2 td^2 summed over valid steps, averaged over sequences, and all that comes with it.

    Intrinsic rewards are divided by their scale first: networks see what they learn.
    """
    sequences = [replace(one, intrinsic_rewards=one.intrinsic_rewards / intrinsic_scale) for one in sequences]
    td_errors: list[list[list[float]]] = [[], []]
    valid, priorities, traces = [], [], []
    taken: list[list[float]] = [[], []]
    losses, left_out = [0.0, 0.0], [0, 0]
    for sequence in sequences:
        n, beta = sequence.num_transitions, float(betas[sequence.policy_index])
        gamma = float(discounts[sequence.policy_index])
        q = [outputs_of(online[net], sequence, net) for net in (0, 1)]
        target_q = [outputs_of(target[net], sequence, net) for net in (0, 1)]
        compared = [_combined(q[0][t], q[1][t], beta, config) for t in range(n + 1)]
        policy = [oracles.epsilon_greedy(row, config.target_epsilon) for row in compared]
        warm = 0 if sequence.previous_actions[0] == NO_ACTION else config.burn_in
        valid.append([t >= warm for t in range(n)])
        for net, rewards in ((0, sequence.extrinsic_rewards), (1, sequence.intrinsic_rewards)):
            bootstrap_q = (target_q if config.bootstrap == "target" else q)[net]
            targets = _targets(sequence, bootstrap_q, policy, compared, [float(r) for r in rewards], gamma, config)
            sigma, actions = float(td_scale[net]), [int(action) for action in sequence.actions]
            td = [(targets[t] - q[net][t][actions[t]]) / sigma for t in range(n)]
            td_errors[net].append(td)
            for t in range(n):
                if config.trust_region is not None and oracles.outside_trust_region(
                    q[net][t][actions[t]], target_q[net][t][actions[t]], targets[t], sigma, config.trust_region
                ):
                    left_out[net] += valid[-1][t]
                elif valid[-1][t]:
                    losses[net] += 0.5 * td[t] ** 2 / len(sequences)
            taken[net] += [q[net][t][int(sequence.actions[t])] for t in range(n) if valid[-1][t]]
        sizes = [abs(td_errors[0][-1][t]) + beta * abs(td_errors[1][-1][t]) for t in range(n) if valid[-1][t]]
        eta = config.priority_eta
        priorities.append(eta * max(sizes) + (1 - eta) * sum(sizes) / len(sizes) if sizes else 0.0)
        for t in range(n):
            if valid[-1][t]:
                ratio = policy[t][int(sequence.actions[t])] / float(sequence.behaviour_probs[t])
                soft = oracles.soft_watkins_coefficient(
                    compared[t], policy[t], int(sequence.actions[t]), config.trace_lambda, config.kappa
                )
                whole = config.trace_lambda
                traces.append({"retrace": whole * min(1.0, ratio), "peng": whole, "soft_watkins": soft}[config.trace])
    return SlowLosses(
        losses=losses,
        td_errors=td_errors,
        valid=valid,
        priorities=priorities,
        mean_q=[sum(values) / len(values) for values in taken],
        max_abs_q=[max(abs(value) for value in values) for values in taken],
        mean_trace=sum(traces) / len(traces),
        masked_share=sum(left_out) / (2 * len(traces)),
    )


def _combined(q_ext: list[float], q_int: list[float], beta: float, config: LossConfig) -> list[float]:
    pairs = zip(q_ext, q_int, strict=True)
    return [oracles.combine_q(e, i, beta, config.mix, config.rescale_epsilon) for e, i in pairs]


def _targets(
    sequence: Sequence,
    target_q: list[list[float]],
    policy: list[list[float]],
    compared: list[list[float]],
    rewards: list[float],
    gamma: float,
    config: LossConfig,
) -> list[float]:
    """y_t of one network for each transition; only a terminal end has discount 0."""
    n = sequence.num_transitions
    arrays: dict[str, Any] = {
        "target_q": [[row] for row in target_q],
        "target_policy": [[row] for row in policy],
        "rewards": [[reward] for reward in rewards],
        "discounts": [[0.0 if sequence.terminated and t == n else gamma] for t in range(n + 1)],
        "mask": [[1]] * n,
    }
    if config.trace == "retrace":
        arrays |= {
            "actions": [[action] for action in sequence.actions],
            "behaviour_probs": [[probability] for probability in sequence.behaviour_probs],
        }
    if config.trace == "soft_watkins":
        arrays |= {
            "actions": [[action] for action in sequence.actions],
            "compare_q": [[row] for row in compared],
            "kappa": config.kappa,
        }
    one = {
        "retrace": oracles.retrace_target,
        "peng": oracles.peng_target,
        "soft_watkins": oracles.soft_watkins_target,
    }[config.trace]
    return [one(t, 0, lambda_=config.trace_lambda, eps=config.rescale_epsilon, **arrays) for t in range(n)]
