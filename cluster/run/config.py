"""The whole configuration of a run: the part that `cluster/` itself reads, and the tree around all parts.

Frozen dataclasses; each class of constants lives beside its reader. `TrainConfig` is what the command line
overrides field by field, what a preset is a value of, and what ``config.json`` in the run folder holds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from actors.config import ActorConfig, EvaluationConfig
from actors.environments.config import EnvironmentConfig
from agent57.config import (
    AgentConfig,
    BanditConfig,
    IntrinsicConfig,
    LossConfig,
    NetworkConfig,
    PolicyFamilyConfig,
    SequenceConfig,
    config_from_dict,
    require,
)
from agent57.ranges import Range, Share, check_ranges
from cluster.run.errors import UserError
from learner.config import LearnerConfig
from replay.config import ReplayConfig
from replay.plain_files import read_json
from replay.whole_files import write_whole


@dataclass(frozen=True)
class ClusterConfig:
    """Processes and how they are watched."""

    address: str = ""
    """Ray cluster to run on: host:port, or auto for the one that this machine is a node of; empty starts a private Ray
    on this machine."""
    num_workers: Annotated[int, Range(at_least=0, at_most=10_000)] = 0
    """Rollout workers (processes, one core each); 0 means one per core that learners and replay leave over."""
    lanes_per_worker: Annotated[int, Range(at_least=1, at_most=4096)] = 16
    """Environments stepped together by one worker."""
    worker_gpu_fraction: Share = 0.0
    """Share of a GPU on which each worker's networks run, for workers of many lanes; 0 means the CPU."""
    num_learners: Annotated[int, Range(at_least=1, at_most=1024)] = 1
    """Learner processes (ranks) that share each batch, with a GPU each where there are GPUs."""
    learner_threads: Annotated[int, Range(at_least=0, at_most=1024)] = 0
    """CPU threads of each learner; 0 means the cores that no worker takes, at least one."""
    replay_shards: Annotated[int, Range(at_least=0, at_most=1024)] = 0
    """Processes that hold the replay, an equal part each; 0 means one per 32 workers."""
    updates_per_request: Annotated[int, Range(at_least=1, at_most=10_000)] = 10
    """Most updates asked of the learner at a time; weights are published after each request."""
    prefetch_batches: Annotated[int, Range(at_least=1, at_most=100)] = 2
    """Batches sampled and decompressed ahead of the learner."""
    object_store_gb: Annotated[float, Range(at_least=0.08, at_most=1e4)] = 0.5
    """Size of Ray's shared-memory store; only messages in flight live there."""
    request_timeout_seconds: Annotated[float, Range(above=0, at_most=1e6)] = 600.0
    """A process that takes longer than this over one request counts as hung and is replaced."""
    worker_memory_gb: Annotated[float, Range(at_least=0, at_most=1e6)] = 0.0
    """A worker whose resident memory exceeds this is replaced, for environments that leak; 0 means never."""
    max_restarts: Annotated[int, Range(at_least=0, at_most=10**6)] = 5
    """Restarts of one process within restart_window_minutes after which the run stops with the first cause."""
    restart_window_minutes: Annotated[float, Range(above=0, at_most=1e6)] = 10.0
    """See max_restarts."""

    def __post_init__(self) -> None:
        check_ranges(self, "cluster")


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written; one is always written when the run stops."""

    period_minutes: Annotated[float, Range(above=0, at_most=1e6)] = 10.0
    """Minutes between two checkpoints."""
    keep: Annotated[int, Range(at_least=1, at_most=10_000)] = 2
    """Checkpoints kept; each holds the whole replay."""
    grace_seconds: Annotated[float, Range(above=0, at_most=1e6)] = 25.0
    """Seconds that a stop by SIGTERM, SIGHUP or Ctrl-C may take, checkpoint included; what is not saved by then is
    lost. Choose it a little shorter than the scheduler's own, which is 30 s as a rule."""

    def __post_init__(self) -> None:
        check_ranges(self, "checkpoint")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a run is made of."""

    env: str = "ALE/Pong-v5"
    """Gymnasium id, or module:Id to import a module that registers it."""
    run_dir: str = ""
    """Folder of the run; empty means runs/<environment>-<preset>-<seed>-<time>."""
    seed: Annotated[int, Range(at_least=0, at_most=2**63 - 1)] = 0
    """Seed of networks, environments, exploration, bandits and replay."""
    serial: bool = False
    """Run everything in this process, without Ray: deterministic, resumable bit for bit."""
    max_minutes: Annotated[float, Range(at_least=0, at_most=1e8)] = 0.0
    """Stop after this many minutes of this session, from when training is up; 0 means never."""
    max_env_frames: Annotated[int, Range(at_least=0, at_most=10**15)] = 0
    """Stop at this many environment frames of the whole run; 0 means never."""
    log_seconds: Annotated[float, Range(above=0, at_most=1e6)] = 10.0
    """Seconds between two points in TensorBoard."""
    family: PolicyFamilyConfig = field(default_factory=PolicyFamilyConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    intrinsic: IntrinsicConfig = field(default_factory=IntrinsicConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    bandit: BanditConfig = field(default_factory=BanditConfig)
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        check_ranges(self, "")

        needed = self.replay.min_sequences * self.sequence.replay_period
        require(
            needed <= self.replay.capacity_steps,
            f"learning would never start: replay.min-sequences need {needed} steps, replay.capacity-steps are fewer",
        )
        require(
            self.learner.batch_size % self.cluster.num_learners == 0,
            f"learner.batch-size {self.learner.batch_size} cannot be split over {self.cluster.num_learners} learners",
        )
        policy = self.evaluation.policy_index
        require(
            policy is None or 0 <= policy < self.family.num_policies,
            f"evaluation.policy-index must lie between 0 and {self.family.num_policies - 1}",
        )
        # Refuses combinations that only the whole algorithm can judge.
        _ = self.agent

    @property
    def agent(self) -> AgentConfig:
        """The part that actors and learner must agree on."""
        return AgentConfig(self.family, self.network, self.intrinsic, self.loss, self.bandit, self.sequence)


def save_config(config: TrainConfig, path: Path) -> None:
    """Write ``config`` as JSON; what was there stays, whole, if that fails (OSError)."""
    write_whole(path, json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def load_config(path: Path) -> TrainConfig:
    """The config in a JSON file. Raises UserError if it is missing, damaged or of another version."""
    try:
        values = read_json(path)
        return config_from_dict(TrainConfig, values)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: is {path.parent} the folder of a run?") from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read as the config of a run: {error}") from None


def flat_fields(config: TrainConfig) -> dict[str, Any]:
    """{"learner.batch_size": 64, ...} of every field, nested ones too."""
    return flat(dataclasses.asdict(config))


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings, such as a config.json's, by names such as "learner.batch_size"."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return leaves
