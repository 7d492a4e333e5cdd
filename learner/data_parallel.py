"""Several learners as one: each computes its part of every batch, all make the same update.

Synchronous data parallelism over `torch.distributed` (NCCL between GPUs, gloo between CPUs). What the learner
sums over a batch, it sums over the ranks too, through `Ranks`: gradients before they are clipped, running
moments, statistics, and the decision to skip an update. So R ranks on a split batch do what one does on the
whole, to float tolerance, and the ranks' weights are equal bit for bit. Knows nothing of Ray: whoever starts
the ranks (`cluster/on_ray/remotes.py`) says where they meet.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

COLLECTIVE_TIMEOUT_SECONDS = 240.0
"""Longest wait of a rank for the others; longer than any of them may wait for its batch."""
BUCKET_BYTES = 4 * 2**20
"""Of gradients that travel in one message: enough to be quick, few enough that most travel during the backward pass."""


class Ranks:
    """This learner's place among ``count``; by itself, rank 0 of 1, everything below does nothing."""

    rank = 0
    count = 1

    def sum_(self, tensor: Tensor) -> Tensor:
        """``tensor``, replaced by its sum over the ranks; every rank must call it."""
        return tensor

    def start_sum_(self, tensor: Tensor) -> Callable[[], None]:
        """Begin `sum_`, and return what waits for its end; until then ``tensor`` must be left alone."""
        return lambda: None

    def max_(self, tensor: Tensor) -> Tensor:
        """``tensor``, replaced by its element-wise maximum over the ranks."""
        return tensor

    def broadcast_(self, tensor: Tensor) -> Tensor:
        """``tensor``, replaced by rank 0's."""
        return tensor

    def close(self) -> None:
        """Leave the group."""


class DistributedRanks(Ranks):
    """Rank ``rank`` of ``count`` processes that meet at ``address`` (host:port, where rank 0 listens).

    The constructor returns when all have arrived. Every call raises RuntimeError if a rank is lost or keeps the
    others waiting for longer than ``timeout_seconds``; the group is then useless.
    """

    def __init__(
        self,
        rank: int,
        count: int,
        address: str,
        device: torch.device,
        timeout_seconds: float = COLLECTIVE_TIMEOUT_SECONDS,
    ) -> None:
        self.rank, self.count = rank, count
        if device.type == "cuda":
            device = torch.device("cuda", device.index or 0)
            torch.cuda.set_device(device)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"tcp://{address}",
            rank=rank,
            world_size=count,
            timeout=timedelta(seconds=timeout_seconds),
            device_id=device if device.type == "cuda" else None,
        )

    def sum_(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def start_sum_(self, tensor: Tensor) -> Callable[[], None]:
        work = dist.all_reduce(tensor, async_op=True)
        assert work is not None
        return work.wait

    def max_(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def broadcast_(self, tensor: Tensor) -> Tensor:
        dist.broadcast(tensor, 0)
        return tensor

    def close(self) -> None:
        dist.destroy_process_group()


class GradientSum:
    """Sums gradients over the ranks while the backward pass still computes others.

    Gradients travel in buckets of `BUCKET_BYTES`, last layers first, as backward makes them. A bucket is sent once it
    and all before it are complete, so that every rank sends them in the same order.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], ranks: Ranks) -> None:
        self._ranks = ranks
        self._buckets: list[list[torch.nn.Parameter]] = []
        self._on_the_way: list[tuple[list[Tensor], Tensor, Callable[[], None]]] = []
        self._arrived: list[int] = []
        if ranks.count == 1:
            return
        size = 0
        for parameter in reversed([each for each in parameters if each.requires_grad]):
            if not self._buckets or size >= BUCKET_BYTES:
                self._buckets.append([])
                size = 0
            self._buckets[-1].append(parameter)
            size += parameter.numel() * parameter.element_size()
            parameter.register_post_accumulate_grad_hook(functools.partial(self._note, len(self._buckets) - 1))
        self._arrived = [0] * len(self._buckets)

    def _note(self, bucket: int, _: Tensor) -> None:
        """A gradient of ``bucket`` is complete; send what can be sent."""
        self._arrived[bucket] += 1
        while self._sent < len(self._buckets) and self._arrived[self._sent] == len(self._buckets[self._sent]):
            self._send()

    @property
    def _sent(self) -> int:
        return len(self._on_the_way)

    def _send(self) -> None:
        bucket = self._buckets[self._sent]
        gradients = [parameter.grad for parameter in bucket if parameter.grad is not None]
        if not gradients:
            # On no rank: there is nothing to send.
            self._on_the_way.append(([], torch.zeros(0), lambda: None))
            return
        joined = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self._on_the_way.append((gradients, joined, self._ranks.start_sum_(joined)))

    @torch.no_grad()
    def finish(self) -> None:
        """To be called after backward: replaces all gradients by their sums."""
        while self._sent < len(self._buckets):
            # Some of its parameters have no gradient, on no rank.
            self._send()
        for gradients, joined, wait in self._on_the_way:
            wait()
            for gradient, summed in zip(gradients, joined.split([each.numel() for each in gradients]), strict=True):
                gradient.copy_(summed.view(gradient.shape))
        self._on_the_way.clear()
        self._arrived = [0] * len(self._buckets)


@torch.no_grad()
def broadcast_tensors(tensors: Iterable[Tensor], ranks: Ranks, device: torch.device) -> None:
    """Give every rank the values that rank 0 has; the ranks must hold tensors of the same shapes in the same order."""
    for tensor in tensors:
        # NCCL takes tensors of its device only, and some of an optimizer's live on the CPU.
        tensor.copy_(ranks.broadcast_(tensor.detach().to(device).contiguous()))
