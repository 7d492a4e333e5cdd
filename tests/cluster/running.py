"""A run on a thread, so that a test can interfere with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from actors.environments.contract import frames_per_step
from cluster.on_ray.fleet import RayFleet
from cluster.on_ray.session import RaySession
from cluster.plan.placement import Node
from cluster.plan.topology import plan_topology
from cluster.run.config import TrainConfig
from cluster.runtime.services import sequence_spec
from cluster.runtime.supervisor import Supervisor


class Run:
    """A supervisor with its Ray processes; on the cluster of ``session`` and ``nodes``, or on a private Ray."""

    def __init__(
        self,
        config: TrainConfig,
        run_dir: Path,
        resume_from: Path | None = None,
        session: RaySession | None = None,
        nodes: list[Node] | None = None,
    ) -> None:
        self.topology = plan_topology(config, sequence_spec(config), nodes)
        run_dir.mkdir(exist_ok=True)
        self.fleet = RayFleet(config, self.topology, session, run_dir)
        frames = frames_per_step(config.env, config.environment)
        self.supervisor = Supervisor(config, self.topology, self.fleet, run_dir, frames)
        self.error: BaseException | None = None
        self._resume_from = resume_from
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.supervisor.run(self._resume_from)
        except BaseException as error:
            self.error = error

    def wait_until(self, condition: Callable[[], object], what: str, seconds: float = 300) -> float:
        """Seconds until ``condition()``; fails if the run ends or ``seconds`` pass before."""
        begin = time.monotonic()
        while not condition():
            assert self.error is None, f"the run died while waiting for {what}: {self.error!r}"
            assert time.monotonic() < begin + seconds, f"{what} did not happen within {seconds} s"
            time.sleep(0.1)
        return time.monotonic() - begin

    def goes_on(self, why: str, frames: int = 300, updates: int = 10) -> float:
        """Wait until it acted and learned some more; returns the seconds."""
        supervisor = self.supervisor
        acted, learned = supervisor.env_frames + frames, supervisor.state.learner_updates + updates
        waited = self.wait_until(lambda: supervisor.env_frames > acted, f"acting {why}")
        return waited + self.wait_until(lambda: supervisor.state.learner_updates > learned, f"learning {why}")

    def wait_for_end(self, seconds: float = 120) -> BaseException:
        """The error that ended the run."""
        self._thread.join(seconds)
        assert self.error is not None, "the run went on"
        return self.error

    def stop(self) -> None:
        """End the run with a checkpoint, and its processes."""
        self.supervisor.request_stop("test")
        self._thread.join(180)
        alive = self._thread.is_alive()
        self.fleet.close()
        assert not alive
