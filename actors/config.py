"""How lanes act, and how they are evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from agent57.config import Arithmetic
from agent57.ranges import Range, Share, check_ranges


@dataclass(frozen=True)
class ActorConfig:
    """How lanes act (Agent57 appendix)."""

    epsilon_base: Annotated[float, Range(above=0, at_most=1)] = 0.4
    """Epsilon of the most random lane; lane l of L has base^(1 + alpha l / (L - 1))."""
    epsilon_alpha: Annotated[float, Range(at_least=0, at_most=1000)] = 8.0
    """Spread of the epsilons over lanes."""
    steps_per_request: Annotated[int, Range(at_least=1, at_most=10_000)] = 100
    """Most steps of each lane between two pulls of weights; also the size of one request to a worker."""
    max_policy_lag: Annotated[int, Range(at_least=0, at_most=10**9)] = 0
    """Learner updates between two pulls of weights at most: where updates come fast beside steps, requests are made
    shorter than steps-per-request; 0 keeps those."""
    torso_dtype: Arithmetic = "float32"
    """Arithmetic of the torsos while acting; the LSTM and the heads stay float32. auto: bfloat16 where the device has
    instructions for it."""

    def __post_init__(self) -> None:
        check_ranges(self, "actor")


@dataclass(frozen=True)
class EvaluationConfig:
    """Greedy evaluation during training (Agent57 appendix)."""

    episodes: Annotated[int, Range(at_least=1, at_most=1024)] = 8
    """Episodes of one round, played side by side. Two of them (one of two or three) explore for the evaluator's bandit,
    the others are the score; a single one is the score, and a second explores beside it."""
    period_env_frames: Annotated[int, Range(at_least=0, at_most=10**15)] = 1_000_000
    """Environment frames of training between the starts of two rounds; 0 turns evaluation off."""
    epsilon: Share = 0.01
    """Epsilon of the evaluated policies."""
    bandit_window: Annotated[int, Range(at_least=1, at_most=10**7)] = 3600
    """Episodes that the evaluator's bandit remembers."""
    bandit_epsilon: Share = 0.01
    """Probability of a random policy in an evaluated episode."""
    ucb_bonus: Annotated[float, Range(at_least=0, at_most=1e6)] = 1.0
    """Exploration bonus of the evaluator's bandit."""
    policy_index: Annotated[int | None, Range(at_least=0, at_most=4095)] = None
    """Evaluate this policy alone, without a bandit (0: the exploitative one)."""

    def __post_init__(self) -> None:
        check_ranges(self, "evaluation")
