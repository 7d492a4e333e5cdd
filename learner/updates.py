"""What an update returns: numbers that a GPU may still be computing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agent57.structures import SequenceBatch


class TrainingDiverged(RuntimeError):
    """Losses or gradients stayed NaN or infinite; the message names the first bad quantity."""


@dataclass
class UpdateResult:
    """New ``priorities`` float32 [B] of the batch, and ``metrics``, one number per tag.

    A skipped update (NaN or infinity) has ``priorities`` None.
    """

    priorities: np.ndarray | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class Inputs:
    """What an update is made from, on the learner's device: see `Learner.start` and `Update`."""

    batch: SequenceBatch[Tensor]
    importance: Tensor | None
    draws: tuple[Tensor | None, ...]

    def tensors(self) -> list[Tensor]:
        """All of them, in a fixed order."""
        return [each for each in (*vars(self.batch).values(), self.importance, *self.draws) if each is not None]

    def like(self, tensors: list[Tensor]) -> Inputs:
        """The same with other ``tensors``."""
        rest = iter(tensors)
        batch = SequenceBatch(**{name: next(rest) for name in vars(self.batch)})
        importance = None if self.importance is None else next(rest)
        return Inputs(batch, importance, tuple(None if each is None else next(rest) for each in self.draws))


@dataclass(frozen=True)
class Outputs:
    """What an update computes, on the device: values of the metrics by ``names``, then priorities, in one [M + B].

    ``taken`` bool []: whether they were all finite, so that the update was made.
    """

    names: list[str]
    numbers: Tensor
    taken: Tensor


class StartedUpdate:
    """An update that the device may still be at work on; `Learner.finish` makes an `UpdateResult` of it."""

    def __init__(self, number: int, outputs: Outputs) -> None:
        """Update ``number``, counted from 0."""
        self.number, self.taken, self._names = number, outputs.taken, outputs.names
        self._host, self._done = _to_host(outputs.numbers)

    def read(self) -> tuple[dict[str, float], np.ndarray]:
        """Metrics by tag, and priorities; waits until the device has them."""
        if self._done is not None:
            self._done.synchronize()
        numbers = self._host.numpy()
        count = len(self._names)
        return dict(zip(self._names, numbers[:count].tolist(), strict=True)), numbers[count:].copy()


def _to_host(numbers: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """``numbers`` on the CPU, once the event has happened (None: now)."""
    if not numbers.is_cuda:
        return numbers, None
    # The copy is queued now, right behind the work that makes them: asked for later it would wait for later work too.
    host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True).copy_(numbers, non_blocking=True)
    done = torch.cuda.Event()
    done.record()
    return host, done
