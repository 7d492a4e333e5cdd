"""The processes of a run as Ray actors: placed, watched, replaced and stopped for the supervisor.

Actors belong to the process that made them, so everything is made here and dies with the run. A process that
fails is replaced by a new actor with the state it needs, rather than by Ray's own restart, which could not
hand that state over. On a cluster that was joined, learners and shards share a placement group, so that they end
up near each other, and workers are spread; those for which there is no room wait, for as long as it takes, until a
node joins.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from cluster.on_ray.actors import RayActors
from cluster.on_ray.late_answers import LateAnswers
from cluster.on_ray.parts import RemoteParts
from cluster.on_ray.places import PLACEMENT_TIMEOUT_SECONDS, draining_nodes
from cluster.on_ray.remotes import (
    RemoteShard,
)
from cluster.on_ray.session import SHUTDOWN_SECONDS, RaySession, start_private
from cluster.plan.topology import Topology
from cluster.run.config import TrainConfig
from cluster.run.errors import ActingStopped, TrainingStopped, UserError, one_line
from cluster.run.messages import (
    ESSENTIAL,
    EvaluationRequest,
    ProcessId,
    Reply,
    RolloutRequest,
    UpdateRequest,
)
from cluster.runtime.fleet import Parts
from cluster.runtime.services import resident_bytes
from cluster.runtime.sharded_replay import ShardedReplay, ShardPort
from cluster.runtime.stopping import CLOSING_SECONDS
from learner.updates import TrainingDiverged

CAUSE_WAIT_SECONDS = 3.0
"""How long to wait, when one learner fails, for another's failure that may be the cause."""


class RayFleet(RayActors):
    """All Ray actors of one run, and the calls in flight to them."""

    exact_resume = False

    def resumes_exactly(self, checkpoint: Path) -> bool:
        """Whether lanes go on in the middle of their episodes: never, they begin new ones."""
        return False

    def __init__(
        self, config: TrainConfig, topology: Topology, session: RaySession | None = None, run_dir: Path | None = None
    ) -> None:
        """``session``: the cluster to join; by default a private Ray is started. All nodes must see ``run_dir``."""
        super().__init__(config, topology, run_dir)
        self._session = session or start_private(config, topology)
        self._priorities = LateAnswers(self._ask_for_priorities)
        self._weights_memory = LateAnswers(lambda: [self._handles["weights", 0].memory.remote()])
        self._memory: dict[str, int] = {}
        self._held: list[ProcessId] = []
        self._turn = 0
        self._told_of_lost_ray = False

    def start(self, checkpoint: Path | None) -> None:
        """Start every process, from ``checkpoint`` if there is one.

        Raises UserError if learners and replay get no place, or a node does not see the run's folder.
        """
        self._places.reserve()
        self._create(("weights", 0), None)
        for shard in range(self.topology.replay_shards):
            self._create(("replay", shard), checkpoint)
        self._create_learners(checkpoint, adopt=False)
        # Before the workers, which take what they find.
        if self.config.evaluation.period_env_frames:
            self._create(("evaluator", 0), None)
        for worker in range(self.num_workers):
            self._create(("worker", worker), None)
        if self.topology.joined:
            self._refuse_unseen_folder()

    def _refuse_unseen_folder(self) -> None:
        """Learners and shards write their parts of a checkpoint themselves."""
        asked = [
            handle.locate.remote(self._run_dir) for process, handle in self._handles.items() if process[0] in ESSENTIAL
        ]
        try:
            ray.get(asked, timeout=PLACEMENT_TIMEOUT_SECONDS)
        except ray.exceptions.RayTaskError as error:
            raise UserError(
                f"{error.cause}: put --run-dir on a filesystem that all nodes share, for checkpoints are written there."
            ) from None
        except RayError:
            pass  # A slow start, or a process that is lost again, is no mistake of the user's; `wait` deals with it.

    # Ports and readiness

    @property
    def replay(self) -> ShardedReplay:
        """The way to all shards that are there."""
        ports: list[ShardPort | None] = []
        for shard in range(self.topology.replay_shards):
            handle = self._handles.get(("replay", shard))
            ports.append(RemoteShard(handle) if handle is not None and self.ready(("replay", shard)) else None)
        return ShardedReplay(ports)

    @property
    def replay_ready(self) -> bool:
        """Whether some shard can take and give sequences."""
        return any(("replay", shard) in self._ready for shard in range(self.topology.replay_shards))

    def waiting(self) -> list[ProcessId]:
        """Processes that have no place yet; a private Ray has one for all."""
        if not self.topology.joined:
            return []
        return [process for process in self._handles if process not in self._locations] + self._held

    def leaving(self) -> list[ProcessId]:
        """Processes on nodes that have been told to leave soon (a spot instance's notice, a scale-down)."""
        if not self.topology.joined:
            return []
        draining = draining_nodes()
        return [process for process, location in self._locations.items() if location.node_id in draining]

    def make_room(self) -> list[ProcessId]:
        """Stop as many workers as learners and shards that wait need cores; returns those stopped.

        They come back when the others have a place and there is room beside them.
        """
        workers: dict[str, list[ProcessId]] = {}
        for process, location in self._locations.items():
            if process[0] == "worker":
                workers.setdefault(location.node_id, []).append(process)
        stopped = self._places.victims(self.waiting(), workers)
        for process in stopped:
            self._remove(process)
        self._held += stopped
        return stopped

    def _readmit(self) -> None:
        if self._held and not any(kind in ESSENTIAL for kind, _ in self.waiting()):
            held, self._held = self._held, []
            self.begin_life()
            for process in held:
                self._create(process, None)

    # Calls

    def submit_rollout(self, worker: int, request: RolloutRequest) -> None:
        process = ("worker", worker)
        assert isinstance(request.replay, ShardedReplay)
        # Shards take turns, so that all fill alike.
        self._turn = (self._turn + 1) % self.topology.replay_shards
        request.replay.home = self._turn
        self._call(process, "request", self._handles[process].rollout.remote(request))

    def submit_update(self, request: UpdateRequest) -> None:
        for rank in range(self.topology.num_learners):
            process = ("learner", rank)
            self._call(process, "request", self._handles[process].update.remote(request))

    def submit_evaluation(self, request: EvaluationRequest) -> None:
        process = ("evaluator", 0)
        self._call(process, "request", self._handles[process].evaluate.remote(request))

    def wait(self, timeout: float) -> list[Reply]:
        """Replies that arrive within ``timeout`` seconds, as soon as there is one; failures are replies too."""
        self._refuse_lost_ray()
        self._readmit()
        if not self._calls:
            time.sleep(min(timeout, 0.01))
            return []
        ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=timeout)
        if ready:
            more, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
            ready = list({*ready, *more})
        replies = [reply for reference in ready if (reply := self._collect(reference)) is not None]
        return self._one_reply_of_learners(replies + self._hung())

    def _refuse_lost_ray(self) -> None:
        """TrainingStopped, once, if a process of Ray's own is gone: nothing can be replaced any more."""
        if self._told_of_lost_ray or (lost := self._session.lost()) is None:
            return
        self._told_of_lost_ray = True
        # Ray aborts this process a minute after it has lost the control store; without a raylet all actors end at once.
        self.grace.begin()
        what, how = lost
        stopped = TrainingStopped if what == "raylet" else ActingStopped
        raise stopped(f"Ray's own {what} {how}: go on from the newest checkpoint with --resume {self._run_dir}")

    def _one_reply_of_learners(self, replies: list[Reply]) -> list[Reply]:
        """All ranks' replies as one of ("learner", 0): rank 0's, or the failure that made the others fail."""
        failed = [reply for reply in replies if reply.process[0] == "learner" and reply.error is not None]
        others = [reply for reply in replies if reply.process[0] != "learner"]
        if not failed:
            return others + [reply for reply in replies if reply.process == ("learner", 0)]
        ranks = {reply.process for reply in failed}
        pending = {ref: call.process for ref, call in self._calls.items() if call.process[0] == "learner"}
        if pending and not any(isinstance(reply.error, RayActorError) for reply in failed):
            # Ranks fail with the one that died, and may say so sooner than its death is known.
            ended, _ = ray.wait(list(pending), num_returns=len(pending), timeout=CAUSE_WAIT_SECONDS)
            late = [reply for ref in ended if (reply := self._collect(ref)) is not None]
            failed += [reply for reply in late if reply.error is not None and reply.process not in ranks]
        cause = min(failed, key=lambda reply: not isinstance(reply.error, RayActorError))
        self._calls = {ref: call for ref, call in self._calls.items() if call.process[0] != "learner"}
        return [*others, Reply(("learner", 0), error=_of_rank(cause, self.topology.num_learners))]

    def lost_peers(self) -> list[ProcessId]:
        """Replay shards and weight server, if they should answer and do not."""
        asked: dict[ProcessId, Callable[[], object]] = {}
        for process, handle in self._handles.items():
            if process[0] == "replay" and self.ready(process):
                asked[process] = RemoteShard(handle).begin("stats")
            elif process[0] == "weights" and self.ready(process):
                reference = handle.pull.remote(-1)
                asked[process] = functools.partial(ray.get, reference, timeout=self._patience)
        lost = []
        for process, answer in asked.items():
            try:
                answer()
            except (RayError, GetTimeoutError, RuntimeError):
                lost.append(process)
        return lost

    # Starting and replacing

    def restart(self, process: ProcessId, checkpoint: Path | None, running_state: dict | None) -> None:
        """Replace ``process`` by a new one; for a learner, all of them.

        A worker or evaluator goes on from ``running_state``, a replay shard from ``checkpoint``, learners from
        ``checkpoint`` and the published weights, which are newer.
        """
        self.begin_life()
        if process[0] == "worker" and running_state is not None:
            self._running_states[process[1]] = running_state
        if process[0] == "evaluator":
            self._evaluator_bandit = running_state
        if process[0] == "learner":
            for rank in range(self.topology.num_learners):
                self._remove(("learner", rank))
            self._create_learners(checkpoint, adopt=True)
            return
        self._remove(process)
        self._create(process, checkpoint)
        if process[0] == "weights" and self.ready(("learner", 0)):
            # Not waited for: a learner that is gone too publishes when it is replaced.
            self._handles["learner", 0].publish.remote(self.weights)

    def restore_running_state(self, worker: int, state: dict) -> None:
        """What the worker starts from; to be called before `start`."""
        self._running_states[worker] = state

    def restore_evaluator(self, bandit: dict) -> None:
        """The evaluator's bandit to start from; to be called before `start`."""
        self._evaluator_bandit = bandit

    # Checkpoints and figures

    @property
    def _writers(self) -> list[ProcessId]:
        return [("learner", 0), *(("replay", shard) for shard in range(self.topology.replay_shards))]

    @property
    def can_save(self) -> bool:
        """Whether all that write parts of a checkpoint are there."""
        return all(self.ready(writer) for writer in self._writers)

    def begin_save(self, directory: Path, gently: bool) -> Parts:
        """Let learner and replay shards write their parts of a checkpoint into ``directory``, beside their work."""
        if not self.can_save:
            raise RuntimeError("a learner or a replay shard is being replaced")
        target = str(directory.resolve())
        learner, *shards = self._writers
        handle = self._handles[learner]
        calls = {handle.save.options(concurrency_group="disk").remote(target, handle.snapshot.remote()): learner}
        calls |= {self._handles[shard].save.remote(target, gently): shard for shard in shards}
        return RemoteParts(calls, self.grace, self._session)

    def priorities(self) -> np.ndarray | None:
        """Priorities of all sequences stored when this was last called; None if they have not come."""
        answers = self._priorities.newest()
        return None if answers is None else np.concatenate(answers)

    def _ask_for_priorities(self) -> list[ray.ObjectRef]:
        handles = [handle for process, handle in self._handles.items() if process[0] == "replay"]
        return [handle.priorities.options(concurrency_group="control").remote() for handle in handles]

    def temporary_folders(self) -> list[Path]:
        """Where a private Ray keeps its sockets and logs: processes fail when it is full."""
        return [] if self._session.temporary is None else [self._session.temporary.folder]

    def memory(self) -> dict[str, int]:
        """Resident bytes of processes that do not report theirs with each reply, as far as they are known."""
        self._memory["supervisor"] = resident_bytes()
        answers = self._weights_memory.newest()
        if answers is not None:
            self._memory["weights"] = answers[0]
        return dict(self._memory)

    def process_ids(self) -> dict[ProcessId, int]:
        """Operating-system process ids, of all processes that have a place."""
        return {process: location.process_id for process, location in self._locations.items()}

    def close(self) -> None:
        """Stop all processes, and a private Ray."""
        for handle in self._handles.values():
            ray.kill(handle, no_restart=True)
        self._places.release()
        self._session.close(self.grace.left(SHUTDOWN_SECONDS, CLOSING_SECONDS / 2))

    def kill(self) -> None:
        """End a private Ray as it is; those of a joined one notice by themselves that this process is gone."""
        self._session.kill()


def _of_rank(reply: Reply, num_ranks: int) -> Exception:
    """The error of a learner; where there are several, it says of which."""
    error = reply.error
    assert error is not None
    cause = getattr(error, "cause", None) or error
    if num_ranks == 1 or isinstance(cause, TrainingDiverged):
        return error
    return RuntimeError(f"rank {reply.process[1]} failed: {one_line(error)}")
