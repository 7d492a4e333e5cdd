"""The processes of a run as Ray actors: started, watched, replaced and stopped for the supervisor.

Actors belong to the process that made them, so everything is made here and dies with the run. A process that
fails is replaced by a new actor with the state it needs, rather than by Ray's own restart, which could not
hand that state over.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from cluster.config import TrainConfig
from cluster.errors import UserError
from cluster.messages import EvaluationRequest, ProcessId, Reply, RolloutRequest, UpdateRequest
from cluster.remotes import (
    EvaluatorProcess,
    LearnerProcess,
    RemoteReplay,
    RemoteWeights,
    ReplayShard,
    RolloutProcess,
    WeightServer,
)
from cluster.topology import Topology

PING_TIMEOUT_SECONDS = 10.0
START_TIMEOUT_SECONDS = 300.0
SAVE_TIMEOUT_SECONDS = 1800.0


class ProcessHung(RuntimeError):
    """A process did not answer a request within ``cluster.request_timeout_seconds``."""


class RayFleet:
    """All Ray actors of one run on one machine, and the requests in flight to them."""

    exact_resume = False

    def __init__(self, config: TrainConfig, topology: Topology) -> None:
        self.config, self.topology = config, topology
        self.num_workers = topology.num_workers
        self._handles: dict[ProcessId, Any] = {}
        self._pending: dict[Any, tuple[ProcessId, float]] = {}
        self._running_states: dict[int, dict] = {}
        self._evaluator_bandit: dict | None = None
        self._temporary = _init_ray(config, topology)

    def start(self, checkpoint: Path | None) -> None:
        """Start every process, from ``checkpoint`` if there is one."""
        for process in [("weights", 0), ("replay", 0), ("learner", 0)]:
            self._create(process, checkpoint, adopt=False)
        for worker in range(self.num_workers):
            self._create(("worker", worker), checkpoint)
        if self.config.evaluation.period_env_frames:
            self._create(("evaluator", 0), checkpoint)

    @property
    def replay(self) -> RemoteReplay:
        return RemoteReplay(self._handles["replay", 0])

    @property
    def weights(self) -> RemoteWeights:
        return RemoteWeights(self._handles["weights", 0])

    def submit_rollout(self, worker: int, request: RolloutRequest) -> None:
        self._submit(("worker", worker), self._handles["worker", worker].rollout.remote(request))

    def submit_update(self, request: UpdateRequest) -> None:
        self._submit(("learner", 0), self._handles["learner", 0].update.remote(request))

    def submit_evaluation(self, request: EvaluationRequest) -> None:
        self._submit(("evaluator", 0), self._handles["evaluator", 0].evaluate.remote(request))

    def _submit(self, process: ProcessId, reference: Any) -> None:
        self._pending[reference] = (process, time.monotonic())

    def wait(self, timeout: float) -> list[Reply]:
        """Replies that arrive within ``timeout`` seconds, as soon as there is one; failures are replies too."""
        if not self._pending:
            time.sleep(min(timeout, 0.01))
            return []
        ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=timeout)
        if ready:
            more, _ = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
            ready = list({*ready, *more})
        replies = [self._collect(reference) for reference in ready]
        limit = self.config.cluster.request_timeout_seconds
        for reference, (process, since) in list(self._pending.items()):
            if time.monotonic() - since > limit:
                del self._pending[reference]
                replies.append(Reply(process, error=ProcessHung(f"no answer within {limit:.0f} s")))
        return replies

    def _collect(self, reference: Any) -> Reply:
        process, _ = self._pending.pop(reference)
        try:
            return Reply(process, ray.get(reference, timeout=PING_TIMEOUT_SECONDS))
        except (RayError, GetTimeoutError) as error:
            return Reply(process, error=error)

    def lost_peers(self) -> list[ProcessId]:
        """Replay and weight server, if they do not answer."""
        pings = {
            ("replay", 0): self._handles["replay", 0].stats.remote(),
            ("weights", 0): self._handles["weights", 0].pull.remote(-1),
        }
        lost = []
        for process, reference in pings.items():
            try:
                ray.get(reference, timeout=PING_TIMEOUT_SECONDS)
            except (RayError, GetTimeoutError):
                lost.append(process)
        return lost

    def restart(self, process: ProcessId, checkpoint: Path | None, running_state: dict | None) -> None:
        """Replace ``process`` by a new one.

        A worker or evaluator goes on from ``running_state``, the replay from ``checkpoint``, the learner from
        ``checkpoint`` and the published weights, which are newer.
        """
        old = self._handles.pop(process, None)
        if old is not None:
            ray.kill(old, no_restart=True)
        self._pending = {ref: entry for ref, entry in self._pending.items() if entry[0] != process}
        if process[0] == "worker" and running_state is not None:
            self._running_states[process[1]] = running_state
        if process[0] == "evaluator":
            self._evaluator_bandit = running_state
        self._create(process, checkpoint, adopt=True)
        if process[0] == "weights":
            # Not waited for: a learner that is gone too publishes when it is replaced.
            self._handles["learner", 0].publish.remote(self.weights)

    def restore_running_state(self, worker: int, state: dict) -> None:
        """What the worker starts from; to be called before `start`."""
        self._running_states[worker] = state

    def restore_evaluator(self, bandit: dict) -> None:
        """The evaluator's bandit to start from; to be called before `start`."""
        self._evaluator_bandit = bandit

    def _create(self, process: ProcessId, checkpoint: Path | None, adopt: bool = True) -> None:
        kind, index = process
        load_from = str(checkpoint) if checkpoint is not None else None
        if kind == "weights":
            handle = ray.remote(WeightServer).options(num_cpus=0).remote()
        elif kind == "replay":
            handle = ray.remote(ReplayShard).options(num_cpus=0, max_concurrency=4)
            handle = handle.remote(self.config.replay, self.config.seed, load_from)
        elif kind == "learner":
            threads = self.topology.learner_threads
            options = {"num_cpus": 0, "num_gpus": self.topology.learner_gpus, **_threads(threads)}
            handle = ray.remote(LearnerProcess).options(**options)
            handle = handle.remote(self.config, threads, self.weights, load_from, adopt)
        elif kind == "evaluator":
            handle = ray.remote(EvaluatorProcess).options(num_cpus=0, **_threads(1))
            handle = handle.remote(self.config, self._evaluator_bandit)
        else:
            handle = ray.remote(RolloutProcess).options(num_cpus=0, **_threads(1))
            handle = handle.remote(self.config, index, self.num_workers, self._running_states.get(index))
        self._handles[process] = handle

    def save(self, directory: Path) -> None:
        """Let learner and replay write their parts of a checkpoint into ``directory``."""
        saves = [self._handles[process].save.remote(str(directory)) for process in (("learner", 0), ("replay", 0))]
        ray.get(saves, timeout=SAVE_TIMEOUT_SECONDS)

    def priorities(self) -> Any:
        """Priorities of all stored sequences, for a histogram; None if the replay does not answer."""
        try:
            return ray.get(self._handles["replay", 0].priorities.remote(), timeout=PING_TIMEOUT_SECONDS)
        except (RayError, GetTimeoutError):
            return None

    def memory(self) -> dict[str, int]:
        """Resident bytes of processes that do not report theirs with each reply."""
        from cluster.services import resident_bytes

        sizes = {"supervisor": resident_bytes()}
        with contextlib.suppress(RayError, GetTimeoutError):
            sizes["weights"] = ray.get(self._handles["weights", 0].memory.remote(), timeout=1.0)
        return sizes

    def process_ids(self) -> dict[ProcessId, int]:
        """Operating-system process ids, of all but the weight server."""
        asked = {p: handle.pid.remote() for p, handle in self._handles.items() if p[0] != "weights"}
        return {process: ray.get(reference, timeout=START_TIMEOUT_SECONDS) for process, reference in asked.items()}

    def close(self) -> None:
        """Stop all processes and this machine's private Ray, and remove its logs."""
        for handle in self._handles.values():
            ray.kill(handle, no_restart=True)
        ray.shutdown()
        shutil.rmtree(self._temporary, ignore_errors=True)


def _threads(threads: int) -> dict[str, Any]:
    """Options that keep a process's math libraries to ``threads`` threads from the start."""
    return {"runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(threads), "MALLOC_ARENA_MAX": "2"}}}


def _init_ray(config: TrainConfig, topology: Topology) -> str:
    """Start a private Ray on this machine, never one that happens to run here already; returns its folder."""
    root = Path(__file__).resolve().parent.parent
    python_path = os.pathsep.join([str(root), os.getcwd(), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    # Short, because the paths of Ray's sockets must stay under 107 characters.
    temporary = tempfile.mkdtemp(prefix="a57-", dir=os.environ.get("RAY_TMPDIR", "/tmp"))
    try:
        ray.init(
            address="local",
            num_cpus=topology.num_cores,
            num_gpus=topology.learner_gpus or None,
            object_store_memory=int(config.cluster.object_store_gb * 1e9),
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            _temp_dir=temporary,
            runtime_env={"env_vars": {"PYTHONPATH": python_path}},
        )
    except (RayError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        raise UserError(
            f"Ray could not start ({str(error).splitlines()[0]}): run 'python launch.py doctor', or use --serial."
        ) from error
    return temporary
