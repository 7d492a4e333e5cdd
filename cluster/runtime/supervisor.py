"""The one place that sees everything: dispatches work, holds the replay ratio, replaces the dead, keeps the run.

DESIGN: supervisor-driven ticks. It keeps one request in flight per worker, learner and evaluator, handles
whichever finishes, and dispatches the next. It drives `on_ray/fleet.py` and `serial_fleet.py` alike. Called by
`cluster/commands/train.py`; what it measured goes through `cluster/telemetry/telemetry.py`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.plan.topology import Topology
from cluster.run.checkpoint import Checkpoints, load_tree, restoring, save_tree
from cluster.run.checkpoint_schedule import CheckpointSchedule
from cluster.run.config import TrainConfig
from cluster.run.errors import ActingStopped, TrainingStopped, one_line
from cluster.run.messages import (
    ESSENTIAL,
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
from cluster.runtime.request_sizes import RequestSizes
from cluster.runtime.restarts import Restarts
from cluster.runtime.sharded_replay import ShardStatistics
from cluster.runtime.stopping import Grace
from cluster.telemetry.snapshot import Snapshot
from cluster.telemetry.telemetry import Telemetry
from replay.rate_limiter import RateLimiter

EVALUATION_STEPS = 100
"""Steps of one request to the evaluator."""
LAST_WAIT_SECONDS = 15.0
"""For a process that is being replaced when the run is to stop."""
NODES_SECONDS = 5.0
"""Between two looks at which nodes are about to leave."""
WAITING_SECONDS = 60.0
"""How long processes may be without a place before the user is told."""


class Supervisor:
    """Owns counters, rate limiter, bandits and checkpoints of one run; everything runs on one thread."""

    def __init__(
        self, config: TrainConfig, topology: Topology, fleet: Fleet, run_dir: Path, frames_per_step: int
    ) -> None:
        self.config, self.topology, self.fleet = config, topology, fleet
        self.frames_per_step = frames_per_step
        self.checkpoints = Checkpoints(run_dir, config.checkpoint.keep)
        self.schedule = CheckpointSchedule(run_dir, 60 * config.checkpoint.period_minutes)
        self.meta_controller = MetaController(
            config.bandit, config.family.num_policies, topology.total_lanes, config.seed
        )
        self._sizes = RequestSizes(config, fleet.num_workers)
        self.limiter = RateLimiter(config.replay.replay_ratio, self._slack(), config.replay.min_sequences)
        self.shards = ShardStatistics(topology.replay_shards)
        self.env_steps = 0
        self.learner_updates = 0
        self.restarts = 0
        self._next_evaluation = config.evaluation.period_env_frames
        self._evaluator_bandit: dict | None = None
        self._running_states: dict[int, dict] = {}
        self._arms_left = [[0] * config.cluster.lanes_per_worker for _ in range(fleet.num_workers)]
        # What workers did last, until they fetch weights again: (version of their weights, environment steps).
        self._acted: dict[int, tuple[int, int]] = {}
        self._busy: set[ProcessId] = set()
        self._evaluating = False
        self._restarts = Restarts(config.cluster.max_restarts, 60 * config.cluster.restart_window_minutes, run_dir)
        self._leaving: set[ProcessId] = set()
        self._nodes_checked = 0.0
        self._waiting = self._waiting_told = 0
        self._waiting_since = 0.0
        self._stop_requested = ""
        self._texts: dict[str, str] = {}
        self.telemetry = Telemetry(config, topology, run_dir)

    @property
    def env_frames(self) -> int:
        """Environment frames of the whole run: the x-axis of everything."""
        return self.env_steps * self.frames_per_step

    def _slack(self) -> float:
        """Trained transitions by which either side may be ahead: the tolerance, but enough for both to move."""
        replay = self.config.replay
        tick = replay.replay_ratio * self._sizes.steps() * self.topology.total_lanes
        granularity = tick + 2 * self._sizes.full_batch
        start_steps = replay.min_sequences * self.config.sequence.replay_period
        return max(replay.ratio_tolerance * replay.replay_ratio * start_steps, granularity)

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
            began_at = self.env_steps
            self.fleet.start(resume_from)
        begun()
        self.telemetry.open(self.env_frames if resume_from is not None else None, self._evaluating)
        for title, markdown in self._texts.items():
            self.telemetry.describe(title, markdown)
        try:
            while not self._should_stop():
                self._restart_due()
                self._watch_places()
                self._dispatch()
                self._handle_replies()
                self.telemetry.tick(self._snapshot, self.fleet.priorities)
                if self.fleet.can_save and (self._preempted() or self.schedule.due()):
                    self.save_checkpoint()
            if self.grace.begun:
                seconds = f"{self.grace.left(self.grace.seconds):.0f} s"
                text = f"{self._stop_requested}: writing a checkpoint within {seconds}; once more to stop without"
                self.telemetry.note(text, self.env_frames)
            if self.env_steps > began_at:
                self._await_writers()
            self.save_checkpoint()
        except ActingStopped:
            self.save_checkpoint()
            raise
        finally:
            self.telemetry.close(self._snapshot(), self.fleet.priorities())
        return self._stop_requested

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            env_frames=self.env_frames,
            learner_updates=self.learner_updates,
            restarts=self.restarts,
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
        if self._is_idle(("learner", 0)) and self.fleet.replay_ready:
            self._dispatch_updates()
        evaluation_due = self._evaluating or self.env_frames >= self._next_evaluation
        if self.config.evaluation.period_env_frames and evaluation_due and self._is_idle(("evaluator", 0)):
            self._dispatch_evaluation()
        if self._busy:
            self.telemetry.start_clock()

    def _is_idle(self, process: ProcessId) -> bool:
        return process not in self._busy and process not in self._restarts and self.fleet.ready(process)

    def _may_act(self) -> bool:
        # Without a shard to take them, sequences would be lost.
        if not self.fleet.replay_ready:
            return False
        in_flight = sum(kind == "worker" for kind, _ in self._busy)
        return self.limiter.may_act(
            (in_flight + 1) * self._sizes.steps(self.limiter) * self.config.cluster.lanes_per_worker
        )

    def _dispatch_rollout(self, worker: int) -> None:
        lanes = self.config.cluster.lanes_per_worker
        if worker in self._acted:
            version, env_steps = self._acted.pop(worker)
            self.telemetry.lagged(self.learner_updates - version, env_steps)
        arms = self.meta_controller.top_up(range(worker * lanes, (worker + 1) * lanes), self._arms_left[worker])
        request = RolloutRequest(
            num_steps=self._sizes.steps(self.limiter),
            arms=arms,
            weights_version=self.learner_updates,
            replay=self.fleet.replay,
            weights=self.fleet.weights,
        )
        self.fleet.submit_rollout(worker, request)
        self._busy.add(("worker", worker))

    def _dispatch_updates(self) -> None:
        allowed = int(self.limiter.trainable_transitions() // self._sizes.full_batch)
        count = min(allowed, self._sizes.updates)
        if count > 0:
            self.fleet.submit_update(UpdateRequest(count, self.fleet.replay, self.fleet.weights))
            self._busy.add(("learner", 0))

    def _dispatch_evaluation(self) -> None:
        begin = not self._evaluating
        if begin:
            period = self.config.evaluation.period_env_frames
            self._next_evaluation = (self.env_frames // period + 1) * period
            self.telemetry.begin_round(self.env_frames)
        request = EvaluationRequest(
            EVALUATION_STEPS,
            self.meta_controller.favourite_arm(),
            begin,
            self.learner_updates,
            self.fleet.weights,
            # Whichever worker it is, these are training's moments.
            self._running_states[min(self._running_states)] if begin and self._running_states else None,
            self.meta_controller.means if begin else None,
        )
        self.fleet.submit_evaluation(request)
        self._busy.add(("evaluator", 0))
        self._evaluating = True

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
        self._busy.discard(reply.process)
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
        except Exception as error:  # whatever a reply holds, it is its process that failed
            self._failed(reply.process, error)

    def _rolled_out(self, worker: int, reply: RolloutReply) -> None:
        self.env_steps += reply.env_steps
        self.limiter.record_env_steps(reply.env_steps)
        if reply.replay_stats is not None:
            reply.replay_stats = self.shards.note(reply.replay_shard, reply.replay_stats)
            self.limiter.note_sequences(self.shards.sequences)
        self.telemetry.choices_played(self.meta_controller.record(reply.episodes))
        self._arms_left[worker] = reply.arms_left
        self._running_states[worker] = reply.running_state
        self._acted[worker] = (reply.weights_version, reply.env_steps)
        self.telemetry.rolled_out(worker, reply)
        if reply.lost_sequences or reply.peer_lost is not None:
            self._replace_lost_peers()
        limit = 1e9 * self.config.cluster.worker_memory_gb
        if limit and reply.resident_bytes > limit:
            taken = f"{reply.resident_bytes / 1e9:.2f} GB"
            self._failed(("worker", worker), MemoryError(f"it takes {taken}, more than cluster.worker-memory-gb"))

    def _updated(self, reply: UpdateReply) -> None:
        self.learner_updates = reply.total_updates
        self.limiter.record_trained(reply.trained_transitions, reply.updates)
        self.telemetry.updated(reply)
        if reply.peer_lost is not None:
            self._replace_lost_peers()

    def _evaluated(self, reply: EvaluationReply) -> None:
        self._evaluator_bandit = reply.bandit
        self._evaluating = not reply.round_over
        self.telemetry.evaluated(reply)

    # Failures

    def _preempted(self) -> bool:
        """Whether a node that learners or shards run on has been told, since the last question, to leave soon."""
        if time.monotonic() - self._nodes_checked < NODES_SECONDS:
            return False
        self._nodes_checked = time.monotonic()
        known, self._leaving = self._leaving, set(self.fleet.leaving())
        new = sorted(self._leaving - known)
        if not any(kind in ESSENTIAL for kind, _ in new):
            return False
        names = ", ".join(f"{kind} {index}" for kind, index in new)
        self.telemetry.note(f"the node of {names} leaves soon: writing a checkpoint", self.env_frames)
        return True

    def _watch_places(self) -> None:
        """Tell the user when processes have waited for a place for a while, and when they need no longer.

        Workers give way where learners or replay wait: without those nothing is learned.
        """
        waiting = self.fleet.waiting()
        if len(waiting) != self._waiting:
            self._waiting, self._waiting_since = len(waiting), time.monotonic()
        if self._waiting_told == self._waiting or time.monotonic() - self._waiting_since < WAITING_SECONDS:
            return
        self._waiting_told = self._waiting
        for process in self.fleet.make_room():
            self._busy.discard(process)
            self._forget_arms(process[1])
            self.telemetry.note(f"{process[0]} {process[1]} stopped to make room", self.env_frames)
        names = ", ".join(f"{kind} {index}" for kind, index in waiting[:4]) + (", ..." if len(waiting) > 4 else "")
        text = f"{names} wait for free cores or GPUs: they start when a node joins" if waiting else "all have a place"
        self.telemetry.note(text, self.env_frames)

    def _replace_lost_peers(self) -> None:
        for process in self.fleet.lost_peers():
            self._failed(process, RuntimeError("does not answer"))

    def _failed(self, process: ProcessId, error: Exception) -> None:
        """Note a failure and plan the restart; one that cannot be mended, or comes too often, stops the run."""
        if process in self._restarts:
            return
        wait = self._restarts.plan(process, error, time.monotonic())
        text = f"{process[0]} {process[1]} failed ({one_line(error)}); restarting it in {wait:g} s"
        self.telemetry.note(text, self.env_frames)

    def _forget_arms(self, worker: int) -> None:
        """What ``worker`` held and played is gone with its process."""
        lanes = self.config.cluster.lanes_per_worker
        self._arms_left[worker] = [0] * lanes
        self.meta_controller.abandon(range(worker * lanes, (worker + 1) * lanes))

    def _begin_evaluation_anew(self) -> None:
        """A round that was broken off gets its score all the same, now."""
        if self._evaluating:
            self._evaluating, self._next_evaluation = False, self.env_frames

    def _restart_due(self) -> None:
        for process in self._restarts.due(time.monotonic()):
            self.restarts += 1
            kind, index = process
            if kind == "worker":
                self._forget_arms(index)
                self.fleet.restart(process, None, self._running_states.get(index))
            elif kind == "evaluator":
                self._begin_evaluation_anew()
                self.fleet.restart(process, None, self._evaluator_bandit)
            else:
                checkpoint = self.checkpoints.latest(lambda text: self.telemetry.note(text, self.env_frames))
                self.fleet.restart(process, checkpoint, None)
                if kind == "replay":
                    self.shards.forget(index)
                    if self.shards.sequences < self.config.replay.min_sequences:
                        self.limiter.await_sequences()
            self.telemetry.note(f"{kind} {index} restarted", self.env_frames)

    # Checkpoints

    def save_checkpoint(self) -> bool:
        """Write a complete checkpoint; returns whether it is there.

        A full disk or a lost process leaves the run going and the old one in place.
        """
        self._await_updates()
        try:
            with self.checkpoints.writing(self.env_frames) as directory:
                self.fleet.save(directory)
                save_tree(directory, "supervisor", self._state())
        except Exception as error:
            if self.fleet.exact_resume and not isinstance(error, OSError):
                raise
            told, written = self.schedule.failed(error), False
            if self.grace.begun:
                told = f"what came after the newest checkpoint is lost ({one_line(error)}). {self.schedule.newest()}"
        else:
            told, written = self.schedule.written(), True
        if told:
            self.telemetry.note(told, self.env_frames)
        return written

    def _await_writers(self) -> None:
        """Give learners and shards that are being replaced a moment to come back, for the last checkpoint's sake."""
        deadline = time.monotonic() + LAST_WAIT_SECONDS
        while not self.fleet.can_save and self.grace.left(deadline - time.monotonic()):
            self._restart_due()
            self._handle_replies()

    def _await_updates(self) -> None:
        """Let the updates in flight end, which saving would wait for anyway, so that both count the same."""
        deadline = time.monotonic() + self.config.cluster.request_timeout_seconds
        while ("learner", 0) in self._busy and self.grace.left(deadline - time.monotonic()):
            self._handle_replies()

    def _state(self) -> dict[str, Any]:
        return {
            "env_steps": self.env_steps,
            "learner_updates": self.learner_updates,
            "restarts": self.restarts,
            "lives": self.fleet.lives,
            "limiter": self.limiter.state_dict(),
            "meta_controller": self.meta_controller.state_dict(),
            "next_evaluation": self._next_evaluation,
            "evaluating": self._evaluating,
            "evaluator_bandit": self._evaluator_bandit,
            "running_states": self._running_states,
            "arms_left": self._arms_left,
            "acted": {worker: list(acted) for worker, acted in self._acted.items()},
            "telemetry": self.telemetry.state_dict(),
        }

    def _restore(self, directory: Path) -> None:
        state = load_tree(directory, "supervisor")
        self.env_steps = state["env_steps"]
        self.learner_updates = state["learner_updates"]
        self.restarts = state["restarts"]
        self.limiter.load_state_dict(state["limiter"])
        self.meta_controller.load_state_dict(state["meta_controller"])
        self._next_evaluation = state["next_evaluation"]
        self.telemetry.load_state_dict(state["telemetry"])
        self._running_states = state["running_states"]
        self._evaluator_bandit = state["evaluator_bandit"]
        self.fleet.lives = state["lives"]
        self._evaluating = state["evaluating"]
        if self.fleet.resumes_exactly(directory):
            self._arms_left = state["arms_left"]
            self._acted = {worker: tuple(acted) for worker, acted in state["acted"].items()}
            return
        self.fleet.begin_life()
        self._begin_evaluation_anew()
        self.meta_controller.abandon(range(self.topology.total_lanes))
        if self.fleet.exact_resume and (directory / "serial.json").exists():
            self.telemetry.note("lanes have changed: their episodes begin anew, not bit for bit", self.env_frames)
        # Workers that are new begin with the moments of one that is not, rather than with none.
        known = [state for _, state in sorted(self._running_states.items())]
        workers = range(self.fleet.num_workers if known else 0)
        self._running_states = {worker: known[worker % len(known)] for worker in workers}
        for worker, running_state in self._running_states.items():
            self.fleet.restore_running_state(worker, running_state)
        if self._evaluator_bandit is not None:
            self.fleet.restore_evaluator(self._evaluator_bandit)
