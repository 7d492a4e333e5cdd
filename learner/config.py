"""How the learner optimises."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from agent57.config import Arithmetic, require
from agent57.ranges import Range, check_ranges


@dataclass(frozen=True)
class LearnerConfig:
    """Optimisation constants (Agent57 appendix)."""

    batch_size: Annotated[int, Range(at_least=1, at_most=65_536)] = 64
    """Sequences per update."""
    learning_rate: Annotated[float, Range(at_least=0, at_most=1)] = 1e-4
    """Learning rate of the Q-networks."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """Of the Q-networks. adamw: Adam with weight decay apart from the gradient, on matrices only (MEME appendix)."""
    weight_decay: Annotated[float, Range(at_least=0, at_most=10)] = 0.05
    """What adamw takes off the weights per update, times the learning rate."""
    rnd_learning_rate: Annotated[float, Range(at_least=0, at_most=1)] = 5e-4
    """Adam learning rate of the RND predictor."""
    embedding_learning_rate: Annotated[float, Range(at_least=0, at_most=1)] = 5e-4
    """Adam learning rate of the embedding and its classifier."""
    embedding_l2: Annotated[float, Range(at_least=0, at_most=1000)] = 1e-5
    """L2 penalty on the embedding's weights."""
    adam_epsilon: Annotated[float, Range(above=0, at_most=1)] = 1e-4
    """Adam epsilon, of all optimizers."""
    max_grad_norm: Annotated[float, Range(above=0, at_most=1e9)] = 40.0
    """Gradient norm clip, of each network by itself; in units of sigma where loss.normalize-td divides errors by it."""
    target_period: Annotated[int, Range(at_least=1, at_most=10**9)] = 1500
    """Updates between two hard copies into the target networks."""
    auxiliary_steps: Annotated[int, Range(at_least=1, at_most=10_000)] = 5
    """Last transitions of each sequence on which embedding and RND predictor are trained."""
    torso_dtype: Arithmetic = "float32"
    """Arithmetic of the torsos (autocast; weights stay float32). auto: bfloat16 where the device has instructions for
    it."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes the GPU if there is one."""
    matrix_precision: Literal["float32", "tf32"] = "float32"
    """On a GPU, of the LSTM and the heads, and of convolutions in float32. tf32: products of numbers with 10 bits of
    mantissa, much the faster on cards that have it."""
    compile: Literal["auto", "off"] = "auto"
    """auto: on a GPU, by itself, an update is recorded as a CUDA graph and replayed; off: it never is."""
    max_bad_updates: Annotated[int, Range(at_least=1, at_most=10**6)] = 20
    """Updates in a row with a NaN or an infinity after which the run stops; a single one is skipped."""

    def __post_init__(self) -> None:
        check_ranges(self, "learner")
        require(
            re.fullmatch(r"auto|cpu|cuda(:\d{1,4})?", self.device, re.ASCII) is not None,
            f"--learner.device is auto, cpu, cuda or cuda:N (got {self.device!r})",
        )
