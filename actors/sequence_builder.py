"""Cuts each lane's episodes into overlapping sequences.

R2D2 section 2.3, Agent57 appendix: T transitions, a new sequence every ``replay_period`` steps, never across
the end of an episode; what is left when an episode ends becomes a shorter sequence, so no transition is
lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actors.lanes import LaneStep
from agent57.state import Stateful
from agent57.structures import STEP_FIELDS, Sequence, SequenceSpec


@dataclass
class BuiltSequence:
    """A finished sequence, the ``values`` seen while acting, [n+1, *] (`Choice`), and how much of it is new.

    ``new_steps`` counts the transitions that no earlier sequence holds.
    """

    sequence: Sequence
    values: np.ndarray
    new_steps: int


class SequenceBuilder(Stateful):
    """The newest T+1 steps of all lanes, row by row in a ring, and where in it each lane's next sequence begins.

    ``_length`` [L] steps of the lane's episode have arrived; its next sequence begins with step ``_first`` [L] of the
    episode. Of recurrent states only those are kept with which a sequence may begin: of the steps at multiples of the
    replay period.
    """

    STATE = ("_ring", "_states", "_time", "_policy_index", "_length", "_first")

    def __init__(self, spec: SequenceSpec, period: int, num_lanes: int, values_shape: tuple[int, ...]) -> None:
        self.trace_length, self.period = spec.trace_length, period
        # Rows of all lanes: written in one piece, they cost a fraction of scattered places in buffers of each lane.
        environment, steps = spec.environment, (spec.trace_length + 1, num_lanes)
        self._ring = {each.name: np.zeros(steps, each.dtype) for each in STEP_FIELDS} | {
            "observations": np.zeros((*steps, *environment.observation_shape), environment.observation_dtype),
            "values": np.zeros((*steps, *values_shape), np.float32),
        }
        self._states = np.zeros((num_lanes, spec.trace_length // period + 1, *spec.state_shape), np.float32)
        self._time = 0
        self._policy_index = np.zeros(num_lanes, np.int64)
        self._length = np.zeros(num_lanes, np.int64)
        self._first = np.zeros(num_lanes, np.int64)

    def append(self, step: LaneStep) -> list[BuiltSequence]:
        """Add step t of every lane; returns the sequences that it completed."""
        self._length[step.starts] = 0
        self._first[step.starts] = 0
        self._policy_index[step.starts] = step.policy_index[step.starts]
        row = self._time % (self.trace_length + 1)
        for name, ring in self._ring.items():
            ring[row] = getattr(step, name)
        begins = np.flatnonzero(self._length % self.period == 0)
        if len(begins):
            states = step.recurrent_state[:, :, begins]
            self._states[begins, self._state_slots(self._length[begins])] = np.moveaxis(states, 2, 0)
        self._length += 1
        self._time += 1
        full = self._length - self._first == self.trace_length + 1
        done = np.flatnonzero(full | step.ends)
        built = self._cut(done, step.terminated) if len(done) else []
        self._first[full] += self.period
        return built

    def _cut(self, lanes: np.ndarray, terminated: np.ndarray) -> list[BuiltSequence]:
        """The steps from ``_first`` to the newest, of each of ``lanes`` where a transition of them is new."""
        counts = self._length[lanes] - self._first[lanes]
        # [lanes, steps]; what lies beyond a lane's own count is cut off below.
        rows = (self._time - counts[:, np.newaxis] + np.arange(counts.max())) % (self.trace_length + 1)
        arrays = {name: ring[rows, lanes[:, np.newaxis]] for name, ring in self._ring.items()}
        states = self._states[lanes, self._state_slots(self._first[lanes])]
        # The transitions before these were handed out with the sequence before, unless this is the episode's first.
        overlap = np.where(self._first[lanes] > 0, self.trace_length - self.period, 0)
        new_steps = (counts - 1 - overlap).tolist()
        built = []
        for at, (lane, count) in enumerate(zip(lanes.tolist(), counts.tolist(), strict=True)):
            if new_steps[at] == 0:
                continue
            own = {name: array[at, :count] for name, array in arrays.items()}
            values, index = own.pop("values"), int(self._policy_index[lane])
            sequence = Sequence(
                terminated=bool(terminated[lane]), policy_index=index, recurrent_state=states[at], **own
            )
            built.append(BuiltSequence(sequence, values, new_steps[at]))
        return built

    def _state_slots(self, positions: np.ndarray) -> np.ndarray:
        """Where ``_states`` holds the states before these steps of an episode, multiples of the period."""
        return positions // self.period % self._states.shape[1]
