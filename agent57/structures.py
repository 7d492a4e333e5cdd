"""The step convention and the arrays that every other part passes around.

**Step convention.** Step t is what is known when action t is chosen: the observation x_t, the previous
action, the extrinsic and the intrinsic reward *that arrived with x_t*, the policy index and the recurrent
state; plus the action a_t then chosen and its behaviour probability mu_t. So ``rewards[t]`` belongs to the
transition t-1 -> t. A sequence has T+1 steps and T transitions; its last step only bootstraps.

Arrays are time-major, ``[T+1, B, ...]``, from batch assembly to the loss. Sequences never cross the end of
an episode: ``mask[t]`` says whether the transition t -> t+1 happened, ``terminated[t]`` whether x_t is
terminal (a truncated episode ends with ``terminated`` False, so it bootstraps).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from agent57.config import AgentConfig

NO_ACTION = -1
"""Previous action at an episode's first step; one-hot encodes to all zeros."""

EXTRINSIC, INTRINSIC = 0, 1
"""Order of the two Q-networks wherever an axis or a tuple holds both."""

NET_NAMES = ("extrinsic", "intrinsic")
"""What they are called."""

SHARED_NAMES = ("q",)
"""What the one network is called that has the values of all policies."""

Array = TypeVar("Array", np.ndarray, Tensor)
"""For functions of numpy arrays and of tensors that return the like."""


def one_hot(index: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """[...] -> [..., count]; all zeros for what is none of 0 to count - 1, such as `NO_ACTION`.

    Unlike torch's, it never looks at the numbers, for which a device would have to be waited for.
    """
    return (index.unsqueeze(-1) == torch.arange(count, device=index.device)).to(dtype)


@dataclass(frozen=True)
class EnvironmentSpec:
    """What the networks and the codec need to know of an environment.

    ``observation_shape`` is (C, H, W) for images and (D,) for vectors; ``observation_dtype`` is "uint8" or
    "float32"; observations are divided by ``observation_scale`` before they enter a network.
    """

    observation_shape: tuple[int, ...]
    observation_dtype: str
    observation_scale: float
    num_actions: int

    @property
    def observation_bytes(self) -> int:
        """Of one observation."""
        return math.prod(self.observation_shape) * np.dtype(self.observation_dtype).itemsize

    @property
    def is_image(self) -> bool:
        return len(self.observation_shape) == 3


@dataclass(frozen=True)
class SequenceSpec:
    """Shapes of one stored sequence: T = ``trace_length`` transitions, recurrent states of ``num_networks`` LSTMs of
    width ``lstm_size``."""

    environment: EnvironmentSpec
    trace_length: int
    lstm_size: int
    num_networks: int = 2

    @classmethod
    def of(cls, agent: AgentConfig, environment: EnvironmentSpec) -> SequenceSpec:
        """The sequences of ``agent``; a single network's have the state of the missing one too, as zeros."""
        num_networks = 1 if agent.network.kind == "shared" else 2
        return cls(environment, agent.sequence.trace_length, agent.network.lstm_size, num_networks)

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """Of a recurrent state: [nets, 2 (h, c), H]."""
        return self.num_networks, 2, self.lstm_size


@dataclass(frozen=True)
class StepField:
    """A number that is kept of every step: its type in memory, its type in a stored sequence, its padding.

    ``repeats`` names the field whose value of the step before it has: only the first of a sequence is stored.
    """

    name: str
    dtype: np.dtype[Any]
    stored: np.dtype[Any]
    padding: float
    repeats: str


def _kept(dtype: type, stored: str, padding: float = 0, repeats: str = "") -> dict[str, Any]:
    return {"dtype": np.dtype(dtype), "stored": np.dtype(stored), "padding": padding, "repeats": repeats}


@dataclass(kw_only=True)
class Steps(Generic[Array]):
    """What is kept of every step besides its observation: the table of per-step fields, in the order of the codec.

    Lanes fill it; sequences, batches, the builder's ring, the codec and the estimates of memory have what is here.
    The action of a sequence's last step is unused.
    """

    previous_actions: Array = field(metadata=_kept(np.int64, "<i2", padding=NO_ACTION, repeats="actions"))
    actions: Array = field(metadata=_kept(np.int64, "<i2"))
    behaviour_probs: Array = field(metadata=_kept(np.float32, "<f4", padding=1))
    extrinsic_rewards: Array = field(metadata=_kept(np.float32, "<f4"))
    intrinsic_rewards: Array = field(metadata=_kept(np.float32, "<f4"))


STEP_FIELDS = tuple(StepField(each.name, **each.metadata) for each in fields(Steps))


@dataclass(kw_only=True)
class Sequence(Steps[np.ndarray]):
    """One lane's sequence of n <= T transitions, as the actor builds it: not padded, per-step fields [n+1].

    ``observations`` [n+1, *obs]; ``terminated``: whether the last observation is terminal; ``recurrent_state``
    float32 [nets, 2 (h, c), H] before step 0.
    """

    observations: np.ndarray
    terminated: bool
    policy_index: int
    recurrent_state: np.ndarray

    @property
    def num_transitions(self) -> int:
        return len(self.actions) - 1


@dataclass(kw_only=True)
class SequenceBatch(Steps[Array]):
    """B sequences padded to T transitions, time-major, per-step fields [T+1, B]; numpy arrays or torch tensors alike.

    ``observations`` [T+1, B, *obs]; ``terminated`` bool [T+1, B]; ``mask`` bool [T, B]; ``policy_index`` int64 [B];
    ``recurrent_state`` float32 [nets, 2 (h, c), B, H]. ``mask`` of padding is False, observations are zeros.
    """

    observations: Array
    terminated: Array
    mask: Array
    policy_index: Array
    recurrent_state: Array

    @property
    def num_transitions(self) -> int:
        """Valid transitions in the whole batch: what ``replay_ratio`` counts as trained."""
        return int(self.mask.sum())

    def to_torch(self, device: str | torch.device = "cpu") -> SequenceBatch[Tensor]:
        """The same batch as tensors on ``device``; on the CPU they share memory with the numpy arrays."""
        tensors: dict[str, Tensor] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            tensors[each.name] = tensor.to(device, non_blocking=True)
        return SequenceBatch(**tensors)

    def pinned(self) -> SequenceBatch[Tensor]:
        """The same batch in page-locked memory, from which a GPU fetches it while the program goes on."""
        return SequenceBatch(**{name: torch.as_tensor(value).pin_memory() for name, value in vars(self).items()})


def padded_batch(spec: SequenceSpec, batch_size: int, pad_observations: bool = True) -> SequenceBatch[np.ndarray]:
    """A batch that holds only padding, to be filled by `fill_column` or `fill_columns`.

    Without ``pad_observations`` those are whatever was in memory, and all of them must be written.
    """
    steps = (spec.trace_length + 1, batch_size)
    frames = (batch_size, spec.trace_length + 1, *spec.environment.observation_shape)
    nets, parts, width = spec.state_shape
    allocate = np.zeros if pad_observations else np.empty
    return SequenceBatch(
        # Time-major, but each column in one piece of memory: sequences are decompressed straight into it.
        observations=allocate(frames, spec.environment.observation_dtype).swapaxes(0, 1),
        terminated=np.zeros(steps, np.bool_),
        mask=np.zeros((spec.trace_length, batch_size), np.bool_),
        policy_index=np.zeros(batch_size, np.int64),
        recurrent_state=np.zeros((nets, parts, batch_size, width), np.float32),
        **{each.name: np.full(steps, each.padding, each.dtype) for each in STEP_FIELDS},
    )


def fill_column(batch: SequenceBatch[np.ndarray], column: int, sequence: Sequence) -> None:
    """Write all of ``sequence`` but its observations into column b, which must hold padding only."""
    n, b = sequence.num_transitions, column
    for each in STEP_FIELDS:
        getattr(batch, each.name)[: n + 1, b] = getattr(sequence, each.name)
    batch.terminated[n, b] = sequence.terminated
    batch.mask[:n, b] = True
    batch.policy_index[b] = sequence.policy_index
    batch.recurrent_state[:, :, b] = sequence.recurrent_state


def fill_columns(batch: SequenceBatch[np.ndarray], sequences: list[Sequence]) -> tuple[np.ndarray, np.ndarray]:
    """`fill_column` of all columns at once, much the quicker where there are many of a few steps each.

    Returns (t, b), each int64 [total steps]: where the steps of the concatenated sequences went.
    """
    counts = np.array([len(sequence.actions) for sequence in sequences])
    columns = np.repeat(np.arange(len(counts)), counts)
    steps = np.arange(len(columns)) - np.repeat(np.cumsum(counts) - counts, counts)
    for each in STEP_FIELDS:
        values = np.concatenate([getattr(sequence, each.name) for sequence in sequences])
        getattr(batch, each.name)[steps, columns] = values
    batch.terminated[counts - 1, np.arange(len(counts))] = [sequence.terminated for sequence in sequences]
    batch.mask[:] = np.arange(len(batch.mask))[:, np.newaxis] < counts - 1
    batch.policy_index[:] = [sequence.policy_index for sequence in sequences]
    batch.recurrent_state[:] = np.stack([sequence.recurrent_state for sequence in sequences], 2)
    return steps, columns
