"""Named starting points: `TrainConfig` values that the command line then overrides field by field.

``paper`` is Agent57's appendix, ``meme`` the successor. The others depart from ``paper`` to learn within minutes on
small machines; the README lists every departure.
"""

from __future__ import annotations

from actors.config import ActorConfig, EvaluationConfig
from actors.environments.config import EnvironmentConfig
from agent57.config import BanditConfig, IntrinsicConfig, LossConfig, NetworkConfig, PolicyFamilyConfig, SequenceConfig
from cluster.run.config import CheckpointConfig, ClusterConfig, TrainConfig
from learner.config import LearnerConfig
from replay.config import ReplayConfig

PAPER = TrainConfig()

LAPTOP = TrainConfig(
    family=PolicyFamilyConfig(num_policies=8, beta_max=0.01, gamma_max=0.99, gamma_min=0.97),
    network=NetworkConfig(conv_filters=(16, 32, 32), torso_size=256, lstm_size=256, head_size=128),
    loss=LossConfig(trace="peng", normalize_td=True, normalize_intrinsic=True),
    bandit=BanditConfig(epsilon=0.2, scope="shared", normalize_returns=True),
    sequence=SequenceConfig(trace_length=20, replay_period=20),
    environment=EnvironmentConfig(full_action_set=False),
    actor=ActorConfig(torso_dtype="auto", steps_per_request=50, max_policy_lag=5),
    replay=ReplayConfig(capacity_steps=200_000, max_gb=2.0, min_sequences=500, replay_ratio=2.0),
    learner=LearnerConfig(
        batch_size=8,
        learning_rate=3e-4,
        adam_epsilon=1e-5,
        auxiliary_steps=2,
        target_period=100,
        torso_dtype="auto",
    ),
    evaluation=EvaluationConfig(episodes=4, period_env_frames=400_000),
    cluster=ClusterConfig(lanes_per_worker=32),
)

# Kapturowski et al. 2022, with the sizes of Agent57's networks; docs/meme.md tells which values are verified.
MEME = TrainConfig(
    family=PolicyFamilyConfig(num_policies=16, beta_max=0.1, gamma_max=0.9997, gamma_min=0.97, ladder="log_uniform"),
    network=NetworkConfig(kind="shared", policy_head=True),
    loss=LossConfig(
        trace="soft_watkins", bootstrap="online", trust_region=2.0, normalize_td=True, td_scale="policy", mix="linear"
    ),
    replay=ReplayConfig(
        capacity_steps=16_000_000, max_gb=16.0, priority_exponent=0.6, importance_exponent=0.4, replay_ratio=12.0
    ),
    learner=LearnerConfig(optimizer="adamw", learning_rate=3e-4, adam_epsilon=1e-8, target_period=400),
)

SMALL = TrainConfig(
    family=PolicyFamilyConfig(num_policies=4, gamma_max=0.99, gamma_min=0.95),
    network=NetworkConfig(torso="mlp", torso_size=128, lstm_size=128, head_size=128),
    intrinsic=IntrinsicConfig(memory_capacity=2_000),
    loss=LossConfig(trace="peng", normalize_td=True, normalize_intrinsic=True),
    bandit=BanditConfig(epsilon=0.2, scope="shared", normalize_returns=True),
    sequence=SequenceConfig(trace_length=10, replay_period=10),
    actor=ActorConfig(steps_per_request=50, max_policy_lag=5),
    replay=ReplayConfig(capacity_steps=200_000, max_gb=1.0, min_sequences=500, replay_ratio=4.0),
    learner=LearnerConfig(batch_size=32, learning_rate=3e-4, adam_epsilon=1e-8, target_period=50),
    evaluation=EvaluationConfig(episodes=16, period_env_frames=100_000),
    cluster=ClusterConfig(lanes_per_worker=32, updates_per_request=20),
)

SMOKE = TrainConfig(
    family=PolicyFamilyConfig(num_policies=4, gamma_max=0.99, gamma_min=0.95),
    network=NetworkConfig(conv_filters=(8, 16, 16), torso_size=64, lstm_size=64, head_size=64),
    intrinsic=IntrinsicConfig(memory_capacity=2_000),
    loss=LossConfig(trace="peng", normalize_td=True, normalize_intrinsic=True),
    bandit=BanditConfig(scope="shared"),
    sequence=SequenceConfig(trace_length=10, replay_period=10),
    environment=EnvironmentConfig(full_action_set=False),
    actor=ActorConfig(steps_per_request=20, max_policy_lag=5),
    replay=ReplayConfig(capacity_steps=20_000, max_gb=0.2, min_sequences=20, replay_ratio=1.0),
    learner=LearnerConfig(batch_size=4, learning_rate=1e-3, adam_epsilon=1e-5, target_period=20),
    evaluation=EvaluationConfig(episodes=2, period_env_frames=100_000),
    checkpoint=CheckpointConfig(period_minutes=1.0),
    cluster=ClusterConfig(num_workers=1, lanes_per_worker=4, object_store_gb=0.1),
    log_seconds=2.0,
)

PRESETS = {"paper": PAPER, "meme": MEME, "laptop": LAPTOP, "small": SMALL, "smoke": SMOKE}
