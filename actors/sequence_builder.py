"""Cuts each lane's episodes into overlapping sequences.

R2D2 section 2.3, Agent57 appendix: T transitions, a new sequence every ``replay_period`` steps, never across
the end of an episode; what is left when an episode ends becomes a shorter sequence, so no transition is
lost. Called by the rollout worker once per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.lanes import LaneStep
from agent57.config import SequenceConfig
from agent57.structures import EnvironmentSpec, Sequence


@dataclass
class BuiltSequence:
    """A finished sequence, the Q-values seen while acting (``q`` [n+1, 2, A]), and how much of it is new.

    ``new_steps`` counts the transitions that no earlier sequence holds.
    """

    sequence: Sequence
    q: np.ndarray
    new_steps: int


class SequenceBuilder:
    """One buffer of up to T+1 steps per lane.

    ``_filled`` [L] steps are in the buffer; the first ``_covered`` [L] of their transitions were already
    handed out with the previous sequence.
    """

    def __init__(self, spec: EnvironmentSpec, config: SequenceConfig, num_lanes: int, lstm_size: int) -> None:
        self.trace_length, self.period = config.trace_length, config.replay_period
        steps = (num_lanes, config.trace_length + 1)
        self._lanes = np.arange(num_lanes)
        self._buffers = {
            "observations": np.zeros((*steps, *spec.observation_shape), spec.observation_dtype),
            "previous_actions": np.zeros(steps, np.int64),
            "actions": np.zeros(steps, np.int64),
            "behaviour_probs": np.zeros(steps, np.float32),
            "extrinsic_rewards": np.zeros(steps, np.float32),
            "intrinsic_rewards": np.zeros(steps, np.float32),
            "recurrent_state": np.zeros((*steps, 2, 2, lstm_size), np.float32),
            "q": np.zeros((*steps, 2, spec.num_actions), np.float32),
        }
        self._policy_index = np.zeros(num_lanes, np.int64)
        self._filled = np.zeros(num_lanes, np.int64)
        self._covered = np.zeros(num_lanes, np.int64)

    def append(self, step: LaneStep) -> list[BuiltSequence]:
        """Add step t of every lane; returns the sequences that it completed."""
        self._filled[step.starts] = 0
        self._covered[step.starts] = 0
        self._policy_index[step.starts] = step.policy_index[step.starts]
        for name, buffer in self._buffers.items():
            values = getattr(step, name)
            if name == "recurrent_state":
                values = np.moveaxis(values, 2, 0)
            buffer[self._lanes, self._filled] = values
        self._filled += 1
        built = []
        for lane in np.flatnonzero((self._filled == self.trace_length + 1) | step.ends):
            if self._filled[lane] - 1 > self._covered[lane]:
                built.append(self._cut(lane, bool(step.terminated[lane])))
            if self._filled[lane] == self.trace_length + 1:
                self._slide(lane)
        return built

    def _cut(self, lane: int, terminated: bool) -> BuiltSequence:
        filled = int(self._filled[lane])
        arrays = {name: buffer[lane, :filled].copy() for name, buffer in self._buffers.items()}
        q, states = arrays.pop("q"), arrays.pop("recurrent_state")
        sequence = Sequence(
            terminated=terminated, policy_index=int(self._policy_index[lane]), recurrent_state=states[0], **arrays
        )
        return BuiltSequence(sequence, q, new_steps=filled - 1 - int(self._covered[lane]))

    def _slide(self, lane: int) -> None:
        """Forget the first ``period`` steps of a full buffer, so that the next sequence starts after them."""
        kept = self.trace_length + 1 - self.period
        for buffer in self._buffers.values():
            buffer[lane, :kept] = buffer[lane, self.period :].copy()
        self._filled[lane] = kept
        self._covered[lane] = kept - 1

    def state_dict(self) -> dict[str, Any]:
        return {
            "buffers": {name: buffer.copy() for name, buffer in self._buffers.items()},
            "policy_index": self._policy_index.copy(),
            "filled": self._filled.copy(),
            "covered": self._covered.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, buffer in self._buffers.items():
            buffer[:] = state["buffers"][name]
        self._policy_index = state["policy_index"].copy()
        self._filled = state["filled"].copy()
        self._covered = state["covered"].copy()
