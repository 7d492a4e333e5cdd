"""Where a run stands: its counters, who is busy, and what each worker holds and did last."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cluster.run.messages import ProcessId


@dataclass
class RunState:
    """Shared by those who drive the run; all on one thread.

    ``arms_left``: by worker and lane, the policies chosen ahead that it still holds. ``acted``: what workers did last,
    until they fetch weights again: (version of their weights, environment steps). ``running_states``: what outlives
    each worker. ``evaluating``: a round is going on; ``next_evaluation``: the frames at which one begins.
    """

    num_workers: int
    lanes_per_worker: int
    frames_per_step: int
    next_evaluation: int
    env_steps: int = 0
    learner_updates: int = 0
    restarts: int = 0
    evaluating: bool = False
    evaluator_bandit: dict | None = None
    running_states: dict[int, dict] = field(default_factory=dict)
    arms_left: list[list[int]] = field(default_factory=list)
    acted: dict[int, tuple[int, int]] = field(default_factory=dict)
    busy: set[ProcessId] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.arms_left = [[0] * self.lanes_per_worker for _ in range(self.num_workers)]

    @property
    def env_frames(self) -> int:
        """Environment frames of the whole run."""
        return self.env_steps * self.frames_per_step

    def lanes_of(self, worker: int) -> range:
        """Numbers of its lanes in the whole run."""
        return range(worker * self.lanes_per_worker, (worker + 1) * self.lanes_per_worker)

    def state_dict(self) -> dict[str, Any]:
        return {
            "env_steps": self.env_steps,
            "learner_updates": self.learner_updates,
            "restarts": self.restarts,
            "next_evaluation": self.next_evaluation,
            "evaluating": self.evaluating,
            "evaluator_bandit": self.evaluator_bandit,
            "running_states": self.running_states,
            "arms_left": self.arms_left,
            "acted": {worker: list(acted) for worker, acted in self.acted.items()},
        }

    def load_state_dict(self, state: dict[str, Any], exact: bool) -> None:
        """Continue from ``state``; unless ``exact``, without what belongs to processes of an earlier session."""
        self.env_steps = state["env_steps"]
        self.learner_updates = state["learner_updates"]
        self.restarts = state["restarts"]
        self.next_evaluation = state["next_evaluation"]
        self.evaluating = state["evaluating"]
        self.evaluator_bandit = state["evaluator_bandit"]
        self.running_states = state["running_states"]
        if exact:
            self.arms_left = state["arms_left"]
            self.acted = {worker: tuple(acted) for worker, acted in state["acted"].items()}
            return
        # Workers that are new begin with the moments of one that is not, rather than with none.
        known = [running for _, running in sorted(self.running_states.items())]
        workers = range(self.num_workers if known else 0)
        self.running_states = {worker: known[worker % len(known)] for worker in workers}
