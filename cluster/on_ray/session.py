"""The Ray that a run lives on: a private one on this machine, or a cluster that is there already."""

from __future__ import annotations

import logging
import os
import socket
import threading
from pathlib import Path

import ray
from ray.exceptions import RayError

from cluster.on_ray.processes import RayProcesses
from cluster.on_ray.temporary_folder import TemporaryFolder, remove_abandoned
from cluster.plan.placement import Node
from cluster.plan.topology import Topology
from cluster.run.config import TrainConfig
from cluster.run.errors import UserError, one_line

ROOT = Path(__file__).resolve().parents[2]
CONNECT_TIMEOUT_SECONDS = 10.0
SHUTDOWN_SECONDS = 20.0
"""For ``ray.shutdown``, which takes a second or two where all is well."""
NOT_SHIPPED = [
    ".git",
    ".venv",
    "runs",
    "results",
    "__pycache__",
    "*.egg-info",
    ".ruff_cache",
    ".mypy_cache",
    ".pytest_cache",
]
"""What of the repository's folder no process needs."""


class RaySession:
    """A connection to Ray; `close` ends a private one, and removes its logs, or leaves a joined one."""

    def __init__(self, temporary: TemporaryFolder | None = None, processes: RayProcesses | None = None) -> None:
        """A private one has both: the folder of its sockets and logs, and its processes."""
        self.temporary, self._processes = temporary, processes

    def lost(self) -> tuple[str, str] | None:
        """Which process of a private Ray's own is gone ("raylet" or "control store"), and how; else None."""
        return self._processes.lost() if self._processes is not None else None

    def kill(self) -> None:
        """End a private Ray at once, as it is; safe on any thread, and as the last thing that this process does."""
        if self._processes is not None:
            self._processes.note()
            self._processes.kill()
        if self.temporary is not None:
            self.temporary.remove()

    def close(self, seconds: float = SHUTDOWN_SECONDS) -> None:
        """Disconnect, for which Ray gets ``seconds``; nothing of a private Ray is left behind."""
        if self._processes is not None:
            self._processes.note()
        # On a thread, because it may wait for processes that are gone.
        disconnect = threading.Thread(target=ray.shutdown, daemon=True)
        disconnect.start()
        disconnect.join(seconds)
        self.kill()


def join_cluster(config: TrainConfig) -> RaySession:
    """Connect to the cluster at ``cluster.address``. Raises UserError if there is none."""
    address = config.cluster.address
    if "://" in address:
        raise UserError(
            f"cluster.address {address} is not host:port: start training on a node of the cluster, or as a Ray job."
        )
    _refuse_silent_address(address)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            namespace=None,
            runtime_env=_shipped_code(),
        )
    except (RayError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        raise UserError(
            f"The Ray cluster at {address} cannot be joined ({one_line(error)}): check --cluster.address, that "
            "this machine runs the same versions of Ray and Python, and RAY_AUTH_MODE and RAY_AUTH_TOKEN."
        ) from error
    return RaySession()


def _refuse_silent_address(address: str) -> None:
    """Find out within seconds that nobody listens: Ray would try for a minute and then end this process."""
    host, _, port = address.rpartition(":")
    if address == "auto" or not host:
        if address != "auto":
            raise UserError(f"cluster.address {address} is not host:port, as in 10.0.0.1:6379; or use auto.")
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"Nobody answers at cluster.address {address} ({one_line(error)}): is the head node up ('ray start "
            "--head'), and its port 6379 open to this machine?"
        ) from None


def _shipped_code() -> dict:
    """Ray's runtime environment that gives every node this code, unless the driver is a Ray job, which has it."""
    variables = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return {"env_vars": variables}
    return {"working_dir": str(ROOT), "excludes": NOT_SHIPPED, "env_vars": variables}


def cluster_nodes() -> list[Node]:
    """What the joined cluster has free: its nodes that are alive, head node first."""
    from ray._private.state import state

    free = state.available_resources_per_node()
    nodes = []
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        total = node["Resources"]
        now = free.get(node["NodeID"], total)
        nodes.append(
            Node(
                name=f"{node['NodeManagerAddress']} {node['NodeID'][:6]}",
                cores=now.get("CPU", 0.0),
                gpus=now.get("GPU", 0.0),
                memory_bytes=now.get("memory", 0.0),
            )
        )
    return nodes


def start_private(config: TrainConfig, topology: Topology) -> RaySession:
    """Start a private Ray on this machine, never one that happens to run here already."""
    python_path = os.pathsep.join([str(ROOT), str(Path.cwd()), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    # Short, because the paths of Ray's sockets must stay under 107 characters.
    parent = Path(os.environ.get("RAY_TMPDIR") or "/tmp")
    remove_abandoned(parent)
    temporary = TemporaryFolder(parent)
    gpus = int(topology.nodes[0].gpus) if topology.learner_gpus or topology.worker.gpus else 0
    try:
        ray.init(
            address="local",
            num_cpus=topology.num_cores,
            num_gpus=gpus or None,
            object_store_memory=int(config.cluster.object_store_gb * 1e9),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(temporary.path),
            runtime_env={"env_vars": {"PYTHONPATH": python_path}},
        )
    except BaseException as error:
        RaySession(temporary).close()
        if isinstance(error, SystemExit):
            # Ray's own answer to a SIGTERM.
            raise KeyboardInterrupt from None
        # A bare Exception is what Ray raises where the machine is too busy for its own processes to come up in time.
        if not isinstance(error, Exception):
            raise
        raise UserError(
            f"Ray could not start ({one_line(error)}): run 'python launch.py doctor', or use --serial."
        ) from error
    return RaySession(temporary, RayProcesses())
