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

from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

NO_ACTION = -1
"""Previous action at an episode's first step; one-hot encodes to all zeros."""

EXTRINSIC, INTRINSIC = 0, 1
"""Order of the two Q-networks wherever an axis or a tuple holds both."""

NET_NAMES = ("extrinsic", "intrinsic")
"""What they are called."""

STEP_SCALARS = ("previous_actions", "actions", "behaviour_probs", "extrinsic_rewards", "intrinsic_rewards")
"""What a `Sequence` and a `SequenceBatch` hold of every step besides its observation, a number each."""

Array = TypeVar("Array", np.ndarray, Tensor)
"""For functions of numpy arrays and of tensors that return the like."""


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
    def is_image(self) -> bool:
        return len(self.observation_shape) == 3


@dataclass(frozen=True)
class SequenceSpec:
    """Shapes of one stored sequence: T = ``trace_length`` transitions, LSTM width ``lstm_size``."""

    environment: EnvironmentSpec
    trace_length: int
    lstm_size: int


@dataclass
class Sequence:
    """One lane's sequence of n <= T transitions, as the actor builds it (numpy, not padded).

    Shapes: ``observations`` [n+1, *obs]; ``previous_actions``, ``actions`` int64 [n+1] (the last action is
    unused); ``behaviour_probs``, ``extrinsic_rewards``, ``intrinsic_rewards`` float32 [n+1]; ``terminated``:
    whether the last observation is terminal; ``recurrent_state`` float32 [2 nets, 2 (h, c), H] before step 0.
    """

    observations: np.ndarray
    previous_actions: np.ndarray
    actions: np.ndarray
    behaviour_probs: np.ndarray
    extrinsic_rewards: np.ndarray
    intrinsic_rewards: np.ndarray
    terminated: bool
    policy_index: int
    recurrent_state: np.ndarray

    @property
    def num_transitions(self) -> int:
        return len(self.actions) - 1


@dataclass
class SequenceBatch:
    """B sequences padded to T transitions, time-major; numpy arrays or torch tensors alike.

    ``observations`` [T+1, B, *obs]; ``previous_actions``, ``actions`` int64 [T+1, B];
    ``behaviour_probs``, ``extrinsic_rewards``, ``intrinsic_rewards`` float32 [T+1, B]; ``terminated`` bool
    [T+1, B]; ``mask`` bool [T, B]; ``policy_index`` int64 [B]; ``recurrent_state`` float32 [2, 2, B, H]
    (net, h/c). Padding: zeros, ``behaviour_probs`` 1, ``previous_actions`` NO_ACTION, ``mask`` False.
    """

    observations: Any
    previous_actions: Any
    actions: Any
    behaviour_probs: Any
    extrinsic_rewards: Any
    intrinsic_rewards: Any
    terminated: Any
    mask: Any
    policy_index: Any
    recurrent_state: Any

    @classmethod
    def empty(cls, spec: SequenceSpec, batch_size: int, pad_observations: bool = True) -> SequenceBatch:
        """Numpy batch holding only padding, to be filled column by column.

        Without ``pad_observations`` those are whatever was in memory, and all of them must be written.
        """
        steps = (spec.trace_length + 1, batch_size)
        frames = (batch_size, spec.trace_length + 1, *spec.environment.observation_shape)
        allocate = np.zeros if pad_observations else np.empty
        return cls(
            # Time-major, but each column in one piece of memory: sequences are decompressed straight into it.
            observations=allocate(frames, spec.environment.observation_dtype).swapaxes(0, 1),
            previous_actions=np.full(steps, NO_ACTION, np.int64),
            actions=np.zeros(steps, np.int64),
            behaviour_probs=np.ones(steps, np.float32),
            extrinsic_rewards=np.zeros(steps, np.float32),
            intrinsic_rewards=np.zeros(steps, np.float32),
            terminated=np.zeros(steps, np.bool_),
            mask=np.zeros((spec.trace_length, batch_size), np.bool_),
            policy_index=np.zeros(batch_size, np.int64),
            recurrent_state=np.zeros((2, 2, batch_size, spec.lstm_size), np.float32),
        )

    def fill(self, column: int, sequence: Sequence) -> None:
        """Write ``sequence`` into column b; the column must hold padding only."""
        self.observations[: sequence.num_transitions + 1, column] = sequence.observations
        self.fill_scalars(column, sequence)

    def fill_scalars(self, column: int, sequence: Sequence) -> None:
        """`fill` without the observations."""
        n, b = sequence.num_transitions, column
        for name in STEP_SCALARS:
            getattr(self, name)[: n + 1, b] = getattr(sequence, name)
        self.terminated[n, b] = sequence.terminated
        self.mask[:n, b] = True
        self.policy_index[b] = sequence.policy_index
        self.recurrent_state[:, :, b] = sequence.recurrent_state

    def fill_all_scalars(self, sequences: list[Sequence]) -> tuple[np.ndarray, np.ndarray]:
        """`fill_scalars` of all columns at once, much the quicker where there are many of a few steps each.

        Returns (t, b), each int64 [total steps]: where the steps of the concatenated sequences went.
        """
        counts = np.array([len(sequence.actions) for sequence in sequences])
        columns = np.repeat(np.arange(len(counts)), counts)
        steps = np.arange(len(columns)) - np.repeat(np.cumsum(counts) - counts, counts)
        for name in STEP_SCALARS:
            getattr(self, name)[steps, columns] = np.concatenate([getattr(sequence, name) for sequence in sequences])
        self.terminated[counts - 1, np.arange(len(counts))] = [sequence.terminated for sequence in sequences]
        self.mask[:] = np.arange(len(self.mask))[:, np.newaxis] < counts - 1
        self.policy_index[:] = [sequence.policy_index for sequence in sequences]
        self.recurrent_state[:] = np.stack([sequence.recurrent_state for sequence in sequences], 2)
        return steps, columns

    def to_torch(self, device: str | torch.device = "cpu") -> SequenceBatch:
        """The same batch as tensors on ``device``; on the CPU they share memory with the numpy arrays."""
        tensors: dict[str, Tensor] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            tensors[field.name] = tensor.to(device, non_blocking=True)
        return SequenceBatch(**tensors)

    @property
    def num_transitions(self) -> int:
        """Valid transitions in the whole batch: what ``replay_ratio`` counts as trained."""
        return int(self.mask.sum())
