"""The one place that sees everything: dispatches work, holds the replay ratio, replaces the dead, keeps the run.

DESIGN: supervisor-driven ticks. It keeps one request in flight per worker, learner and evaluator, handles
whichever finishes, and dispatches the next. It drives `on_ray/fleet.py` and `serial_fleet.py` alike.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.plan.topology import Topology
from cluster.run.checkpoint import Checkpoints, load_tree, restoring
from cluster.run.checkpoint_schedule import CheckpointSchedule
from cluster.run.config import TrainConfig
from cluster.run.errors import ActingStopped, TrainingStopped, one_line
from cluster.run.messages import (
    EvaluationReply,
    EvaluationRequest,
    ProcessId,
    Reply,
    RolloutReply,
    RolloutRequest,
    UpdateReply,
    UpdateRequest,
)
from cluster.runtime.fleet import Fleet
from cluster.runtime.meta_controller import MetaController
from cluster.runtime.recovery import Recovery, Restarts
from cluster.runtime.request_sizes import RequestSizes
from cluster.runtime.run_state import RunState
from cluster.runtime.saving import Saving
from cluster.runtime.sharded_replay import ShardStatistics
from cluster.runtime.stopping import Grace
from cluster.telemetry.snapshot import Snapshot
from cluster.telemetry.telemetry import Telemetry
from replay.rate_limiter import RateLimiter

EVALUATION_STEPS = 100
"""Steps of one request to the evaluator."""
LAST_WAIT_SECONDS = 15.0
"""For a process that is being replaced when the run is to stop."""


class Supervisor:
    """Owns counters, rate limiter, bandits and checkpoints of one run; everything runs on one thread."""

    def __init__(
        self, config: TrainConfig, topology: Topology, fleet: Fleet, run_dir: Path, frames_per_step: int
    ) -> None:
        self.config, self.topology, self.fleet = config, topology, fleet
        self.state = RunState(
            fleet.num_workers, config.cluster.lanes_per_worker, frames_per_step, config.evaluation.period_env_frames
        )
        self.checkpoints = Checkpoints(run_dir, config.checkpoint.keep)
        self.schedule = CheckpointSchedule(run_dir, 60 * config.checkpoint.period_minutes)
        self.meta_controller = MetaController(
            config.bandit, config.family.num_policies, topology.total_lanes, config.seed
        )
        self._sizes = RequestSizes(config, fleet.num_workers)
        slack = self._sizes.slack(topology.total_lanes)
        self.limiter = RateLimiter(config.replay.replay_ratio, slack, config.replay.min_sequences)
        self.shards = ShardStatistics(topology.replay_shards)
        self.recovery = Recovery(
            config,
            self.state,
            fleet,
            self.meta_controller,
            self.limiter,
            self.shards,
            self.checkpoints,
            Restarts(config.cluster.max_restarts, 60 * config.cluster.restart_window_minutes, run_dir),
            self._note,
        )
        self._saving: Saving | None = None
        self._save_soon = False
        self._stop_requested = ""
        self._texts: dict[str, str] = {}
        self.telemetry = Telemetry(config, topology, run_dir)

    @property
    def env_frames(self) -> int:
        """Environment frames of the whole run: the x-axis of everything."""
        return self.state.env_frames

    def _note(self, text: str) -> None:
        self.telemetry.note(text, self.env_frames)

    def request_stop(self, why: str) -> None:
        """Finish the current tick, write a checkpoint and return from `run`; safe in a signal handler."""
        self._stop_requested = why

    @property
    def grace(self) -> Grace:
        """What is left of the time for a stop, from when a signal has asked for one."""
        return self.fleet.grace

    def last_words(self) -> str:
        """What a run that is cut short leaves; asks nobody."""
        return self.schedule.newest()

    def kill(self) -> None:
        """End all processes as they are."""
        self.fleet.kill()

    def describe_run(self, texts: dict[str, str]) -> None:
        """Markdown texts (plan, config, versions) to put into TensorBoard when the run begins."""
        self._texts = texts

    def run(self, resume_from: Path | None, begun: Callable[[], None] = lambda: None) -> str:
        """Train until a limit is reached or `request_stop`; returns why it stopped.

        ``begun`` is called once the checkpoint is restored and the fleet started, before anything is written. Raises
        TrainingStopped when training cannot go on; the last checkpoint stays.
        """
        with restoring(resume_from) if resume_from is not None else contextlib.nullcontext():
            if resume_from is not None:
                self.checkpoints.go_on_from(resume_from)
                self._restore(resume_from)
            began_at = self.state.env_steps
            self.fleet.start(resume_from)
        begun()
        self.telemetry.open(self.env_frames if resume_from is not None else None, self.state.evaluating)
        for title, markdown in self._texts.items():
            self.telemetry.describe(title, markdown)
        try:
            while not self._should_stop():
                self.recovery.restart_due()
                self.recovery.watch_places()
                self._dispatch()
                self._handle_replies()
                self.telemetry.tick(self._snapshot, self.fleet.priorities)
                self._save_beside()
            if self.grace.begun:
                seconds = f"{self.grace.left(self.grace.seconds):.0f} s"
                text = f"{self._stop_requested}: writing a checkpoint within {seconds}; once more to stop without"
                self._note(text)
            if self.state.env_steps > began_at:
                self._await_writers()
            self.save_checkpoint()
        except ActingStopped:
            self.save_checkpoint()
            raise
        finally:
            if self._saving is not None:
                self._saving.end()
            self.telemetry.close(self._snapshot(), self.fleet.priorities())
        return self._stop_requested

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            env_frames=self.env_frames,
            learner_updates=self.state.learner_updates,
            restarts=self.state.restarts,
            replay_ratio=self.limiter.ratio if self.limiter.started else None,
            arm_pulls=self.meta_controller.counts,
            favourite_arm=self.meta_controller.favourite_arm(),
            refused_returns=self.meta_controller.refused_returns,
            resident_bytes=self.fleet.memory(),
            temporary_folders=self.fleet.temporary_folders(),
        )

    def _should_stop(self) -> bool:
        config = self.config
        if config.max_env_frames and self.env_frames >= config.max_env_frames:
            self.request_stop(f"reached {config.max_env_frames:,} environment frames")
        elif config.max_minutes and self.telemetry.session_minutes >= config.max_minutes:
            self.request_stop(f"reached {config.max_minutes:g} minutes")
        return bool(self._stop_requested)

    # Dispatch

    def _dispatch(self) -> None:
        for worker in range(self.fleet.num_workers):
            if self._is_idle(("worker", worker)) and self._may_act():
                self._dispatch_rollout(worker)
        # A checkpoint waits for the updates under way, and more would come in between.
        if self._is_idle(("learner", 0)) and self.fleet.replay_ready and not self._save_soon:
            self._dispatch_updates()
        evaluation_due = self.state.evaluating or self.env_frames >= self.state.next_evaluation
        if self.config.evaluation.period_env_frames and evaluation_due and self._is_idle(("evaluator", 0)):
            self._dispatch_evaluation()
        if self.state.busy:
            self.telemetry.start_clock()

    def _is_idle(self, process: ProcessId) -> bool:
        return process not in self.state.busy and not self.recovery.pending(process) and self.fleet.ready(process)

    def _may_act(self) -> bool:
        # Without a shard to take them, sequences would be lost.
        if not self.fleet.replay_ready:
            return False
        in_flight = sum(kind == "worker" for kind, _ in self.state.busy)
        return self.limiter.may_act(
            (in_flight + 1) * self._sizes.steps(self.limiter) * self.config.cluster.lanes_per_worker
        )

    def _dispatch_rollout(self, worker: int) -> None:
        if worker in self.state.acted:
            version, env_steps = self.state.acted.pop(worker)
            self.telemetry.lagged(self.state.learner_updates - version, env_steps)
        arms = self.meta_controller.top_up(self.state.lanes_of(worker), self.state.arms_left[worker])
        request = RolloutRequest(
            num_steps=self._sizes.steps(self.limiter),
            arms=arms,
            weights_version=self.state.learner_updates,
            replay=self.fleet.replay,
            weights=self.fleet.weights,
        )
        self.fleet.submit_rollout(worker, request)
        self.state.busy.add(("worker", worker))

    def _dispatch_updates(self) -> None:
        allowed = int(self.limiter.trainable_transitions() // self._sizes.full_batch)
        count = min(allowed, self._sizes.updates)
        if count > 0:
            self.fleet.submit_update(UpdateRequest(count, self.fleet.replay, self.fleet.weights))
            self.state.busy.add(("learner", 0))

    def _dispatch_evaluation(self) -> None:
        begin = not self.state.evaluating
        if begin:
            period = self.config.evaluation.period_env_frames
            self.state.next_evaluation = (self.env_frames // period + 1) * period
            self.telemetry.begin_round(self.env_frames)
        request = EvaluationRequest(
            EVALUATION_STEPS,
            self.meta_controller.favourite_arm(),
            begin,
            self.state.learner_updates,
            self.fleet.weights,
            # Whichever worker it is, these are training's moments.
            self.state.running_states[min(self.state.running_states)] if begin and self.state.running_states else None,
            self.meta_controller.means if begin else None,
        )
        self.fleet.submit_evaluation(request)
        self.state.busy.add(("evaluator", 0))
        self.state.evaluating = True

    # Replies

    def _handle_replies(self) -> None:
        """Wait for replies and handle all that came, whatever one of them leads to."""
        stopped = None
        for reply in self.fleet.wait(timeout=0.5):
            try:
                self._handle(reply)
            except TrainingStopped as error:
                stopped = stopped or error
        if stopped is not None:
            raise stopped

    def _handle(self, reply: Reply) -> None:
        self.state.busy.discard(reply.process)
        try:
            if reply.error is not None:
                raise reply.error
            if isinstance(reply.value, RolloutReply):
                self._rolled_out(reply.process[1], reply.value)
            elif isinstance(reply.value, UpdateReply):
                self._updated(reply.value)
            elif isinstance(reply.value, EvaluationReply):
                self._evaluated(reply.value)
        except TrainingStopped:
            raise
        except Exception as error:  # noqa: BLE001 (whatever a reply holds, it is its process that failed)
            self.recovery.failed(reply.process, error)

    def _rolled_out(self, worker: int, reply: RolloutReply) -> None:
        self.state.env_steps += reply.env_steps
        self.limiter.record_env_steps(reply.env_steps)
        if reply.replay_stats is not None:
            reply.replay_stats = self.shards.note(reply.replay_shard, reply.replay_stats)
            self.limiter.note_sequences(self.shards.sequences)
        self.telemetry.choices_played(self.meta_controller.record(reply.episodes))
        self.state.arms_left[worker] = reply.arms_left
        self.state.running_states[worker] = reply.running_state
        self.state.acted[worker] = (reply.weights_version, reply.env_steps)
        self.telemetry.rolled_out(worker, reply)
        if reply.lost_sequences or reply.peer_lost is not None:
            self.recovery.replace_lost_peers()
        limit = 1e9 * self.config.cluster.worker_memory_gb
        if limit and reply.resident_bytes > limit:
            taken = f"{reply.resident_bytes / 1e9:.2f} GB"
            self.recovery.failed(
                ("worker", worker), MemoryError(f"it takes {taken}, more than cluster.worker-memory-gb")
            )

    def _updated(self, reply: UpdateReply) -> None:
        self.state.learner_updates = reply.total_updates
        self.limiter.record_trained(reply.trained_transitions, reply.updates)
        self.telemetry.updated(reply)
        if reply.peer_lost is not None:
            self.recovery.replace_lost_peers()

    def _evaluated(self, reply: EvaluationReply) -> None:
        self.state.evaluator_bandit = reply.bandit
        self.state.evaluating = not reply.round_over
        self.telemetry.evaluated(reply)

    # Checkpoints

    def save_checkpoint(self) -> bool:
        """Write a complete checkpoint and wait for it; returns whether it is there.

        A full disk or a lost process leaves the run going and the old one in place.
        """
        if self._saving is not None:
            self._saved(self._saving.wait)
        self._await_updates()
        return self._begin_saving(gently=False) and self._saving is not None and self._saved(self._saving.wait)

    def _save_beside(self) -> None:
        """Begin a checkpoint when one is due and no update is under way, and see to the one that is being written."""
        if self._saving is not None:
            self._saved(self._saving.poll)
        elif self.fleet.can_save:
            self._save_soon = self._save_soon or self.recovery.preempted() or self.schedule.due()
            # Learner and supervisor must count the same updates.
            if self._save_soon and ("learner", 0) not in self.state.busy:
                self._save_soon = False
                if self._begin_saving(gently=True) and self.fleet.exact_resume and self._saving is not None:
                    self._saved(self._saving.wait)

    def _begin_saving(self, gently: bool) -> bool:
        def begin() -> None:
            self._saving = Saving(self.checkpoints, self.env_frames, self.fleet, self._state_dict(), gently)

        return self._saved(begin, over=False)

    def _saved(self, step: Callable[[], bool | None], over: bool = True) -> bool:
        """Make a ``step`` of the checkpoint under way and tell how it went, if that is new; False if it failed.

        ``over``: the step may be the last one; it is unless it returns False.
        """
        try:
            if step() is False or not over:
                return True
        except Exception as error:
            self._saving = None
            if self.fleet.exact_resume and not isinstance(error, OSError):
                raise
            told, written = self.schedule.failed(error), False
            if self.grace.begun:
                told = f"what came after the newest checkpoint is lost ({one_line(error)}). {self.schedule.newest()}"
        else:
            self._saving = None
            told, written = self.schedule.written(), True
        if told:
            self._note(told)
        return written

    def _await_writers(self) -> None:
        """Give learners and shards that are being replaced a moment to come back, for the last checkpoint's sake."""
        deadline = time.monotonic() + LAST_WAIT_SECONDS
        while not self.fleet.can_save and self.grace.left(deadline - time.monotonic()):
            self.recovery.restart_due()
            self._handle_replies()

    def _await_updates(self) -> None:
        """Let the updates in flight end, which saving would wait for anyway, so that both count the same."""
        deadline = time.monotonic() + self.config.cluster.request_timeout_seconds
        while ("learner", 0) in self.state.busy and self.grace.left(deadline - time.monotonic()):
            self._handle_replies()

    def _state_dict(self) -> dict[str, Any]:
        return self.state.state_dict() | {
            "lives": self.fleet.lives,
            "limiter": self.limiter.state_dict(),
            "meta_controller": self.meta_controller.state_dict(),
            "telemetry": self.telemetry.state_dict(),
        }

    def _restore(self, directory: Path) -> None:
        saved = load_tree(directory, "supervisor")
        exact = self.fleet.resumes_exactly(directory)
        self.state.load_state_dict(saved, exact)
        self.limiter.load_state_dict(saved["limiter"])
        self.meta_controller.load_state_dict(saved["meta_controller"])
        self.telemetry.load_state_dict(saved["telemetry"])
        self.fleet.lives = saved["lives"]
        if exact:
            return
        self.fleet.begin_life()
        self.recovery.begin_evaluation_anew()
        self.meta_controller.abandon(range(self.topology.total_lanes))
        if self.fleet.exact_resume and (directory / "serial.json").exists():
            self._note("lanes have changed: their episodes begin anew, not bit for bit")
        for worker, running_state in self.state.running_states.items():
            self.fleet.restore_running_state(worker, running_state)
        if self.state.evaluator_bandit is not None:
            self.fleet.restore_evaluator(self.state.evaluator_bandit)
