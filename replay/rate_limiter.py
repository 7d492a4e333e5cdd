"""Holds the replay ratio: trained transitions per environment step, by saying which side may go on.

The supervisor asks before it dispatches a rollout or an update, so that a laptop and a cluster train the same
way. The paper's set-up amounts to a ratio of about 0.8 (5 updates/s of 64 x 160 over 256 actors at 260 steps/s).
"""

from __future__ import annotations

from collections.abc import Mapping

from agent57.config import require


class RateLimiter:
    """Keeps ``trained_transitions`` within ``slack`` of ``replay_ratio * env_steps``; not thread-safe.

    Both counts begin when the replay first holds ``min_sequences`` (see ``note_sequences``): steps taken before
    owe no training. Until then acting is always allowed and training never.

    The limiter counts finished work only. Work that is dispatched but unfinished is passed to each question as
    *pending*, so what a killed worker never delivered needs no undoing.

    ``slack`` is in trained transitions. If twice the slack covers one batch and ``replay_ratio`` times one
    rollout, then in every state one of the two is allowed: training is refused only when more than
    slack - batch ahead, acting only when more than slack - replay_ratio * rollout behind.
    """

    def __init__(self, replay_ratio: float, slack: float, min_sequences: int) -> None:
        require(replay_ratio > 0, "replay.replay-ratio must be positive")
        require(slack > 0, "the rate limiter's slack must be positive")
        require(min_sequences >= 1, "replay.min-sequences must be at least 1")
        self.replay_ratio = replay_ratio
        self.slack = slack
        self.min_sequences = min_sequences
        self.started = False
        self.env_steps = 0
        """Environment steps since the start."""
        self.trained_transitions = 0
        """Valid transitions of the batches trained on since the start."""
        self.updates = 0
        """Batches trained on since the start."""

    @property
    def ratio(self) -> float:
        """Achieved trained transitions per environment step since the start; 0 before the first step."""
        return self.trained_transitions / self.env_steps if self.env_steps else 0.0

    @property
    def transitions_per_update(self) -> float:
        """Mean valid transitions of a batch since the start; 0 before the first."""
        return self.trained_transitions / self.updates if self.updates else 0.0

    @property
    def lead(self) -> float:
        """Trained transitions beyond replay_ratio * env_steps: positive if the learner is ahead of the actors."""
        return self.trained_transitions - self.replay_ratio * self.env_steps

    def note_sequences(self, num_sequences: int) -> None:
        """Start the count once the replay holds ``min_sequences``; a replay that shrinks later does not stop it."""
        self.started = self.started or num_sequences >= self.min_sequences

    def await_sequences(self) -> None:
        """Pause training, and the count with it, until ``min_sequences`` are held again: the replay was lost."""
        self.started = False

    def record_env_steps(self, num_steps: int) -> None:
        """Count finished environment steps, each once however many sequences store it."""
        require(num_steps >= 0, "environment steps cannot be negative")
        if self.started:
            self.env_steps += int(num_steps)

    def record_trained(self, num_transitions: int, updates: int = 1) -> None:
        """Count the valid transitions of finished updates."""
        require(num_transitions >= 0, "trained transitions cannot be negative")
        if self.started:
            self.trained_transitions += int(num_transitions)
            self.updates += int(updates)

    def may_act(self, pending_env_steps: int) -> bool:
        """Whether a rollout may be dispatched; ``pending_env_steps`` are those in flight plus this rollout's."""
        return not self.started or self.lead - self.replay_ratio * pending_env_steps >= -self.slack

    def trainable_transitions(self, pending: float = 0.0) -> float:
        """Transitions that may still be dispatched for training now, beside the ``pending`` ones in flight; >= 0."""
        return max(0.0, self.slack - self.lead - pending) if self.started else 0.0

    def state_dict(self) -> dict[str, float | bool]:
        """The counters and the ratio they were kept at, JSON-able."""
        return {
            "replay_ratio": self.replay_ratio,
            "started": self.started,
            "env_steps": self.env_steps,
            "trained_transitions": self.trained_transitions,
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, float | bool]) -> None:
        """Continue from ``state_dict()``; if ``replay_ratio`` was changed since, both counts begin again at 0."""
        self.started = bool(state["started"])
        # Else one side would stand still until the whole past fitted the new ratio.
        same_ratio = state["replay_ratio"] == self.replay_ratio
        self.env_steps = int(state["env_steps"]) if same_ratio else 0
        self.trained_transitions = int(state["trained_transitions"]) if same_ratio else 0
        self.updates = int(state["updates"]) if same_ratio else 0
