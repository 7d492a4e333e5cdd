"""How much one request asks of a worker or of the learner: little enough that nobody acts with old weights.

Workers fetch weights with each request, the learner hands them out after each. Where updates come fast beside steps
(small batches, a high replay ratio), a request of a fixed number of steps would let the learner run far ahead.
"""

from __future__ import annotations

from cluster.run.config import TrainConfig
from replay.rate_limiter import RateLimiter


class RequestSizes:
    """Sizes of the next requests, by ``actor.max_policy_lag`` and the pace that ``limiter`` holds."""

    def __init__(self, config: TrainConfig, num_workers: int) -> None:
        self._most_steps, self._most_updates = config.actor.steps_per_request, config.cluster.updates_per_request
        self._lag = config.actor.max_policy_lag
        self._replay = config.replay
        self._start_steps = config.replay.min_sequences * config.sequence.replay_period
        self._ratio_of_all_lanes = config.replay.replay_ratio * config.cluster.lanes_per_worker * num_workers
        self.full_batch = config.learner.batch_size * config.sequence.trace_length

    def steps(self, limiter: RateLimiter | None = None) -> int:
        """Steps of each lane in one request, during which the learner makes at most ``max_policy_lag`` updates.

        Short episodes fill batches with fewer transitions, so more updates belong to a step: ``limiter`` knows.
        """
        if not self._lag:
            return self._most_steps
        batch = limiter.transitions_per_update if limiter is not None else 0.0
        steps = int(self._lag * (batch or self.full_batch) / self._ratio_of_all_lanes)
        return min(max(steps, 1), self._most_steps)

    @property
    def updates(self) -> int:
        """Updates in one request at most."""
        return min(self._most_updates, self._lag) if self._lag else self._most_updates

    def slack(self, total_lanes: int) -> float:
        """Trained transitions by which acting or learning may be ahead: the tolerance, but enough for both to move."""
        replay = self._replay
        granularity = replay.replay_ratio * self.steps() * total_lanes + 2 * self.full_batch
        return max(replay.ratio_tolerance * replay.replay_ratio * self._start_steps, granularity)
