"""Several learners as one: each computes its part of every batch, all make the same update.

Synchronous data parallelism over `torch.distributed` (NCCL between GPUs, gloo between CPUs). What the learner
sums over a batch, it sums over the ranks too, through `Ranks`: gradients before they are clipped, running
moments, statistics, and the decision to skip an update. So R ranks on a split batch do what one does on the
whole, to float tolerance, and the ranks' weights are equal bit for bit. Knows nothing of Ray: whoever starts
the ranks (`cluster/on_ray/remotes.py`) says where they meet.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

COLLECTIVE_TIMEOUT_SECONDS = 240.0
"""Longest wait of a rank for the others; longer than any of them may wait for its batch."""


class Ranks:
    """This learner's place among ``count``; by itself, rank 0 of 1, everything below does nothing."""

    rank = 0
    count = 1

    def sum_(self, tensor: Tensor) -> Tensor:
        """``tensor``, replaced by its sum over the ranks; every rank must call it."""
        return tensor

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

    def max_(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def broadcast_(self, tensor: Tensor) -> Tensor:
        dist.broadcast(tensor, 0)
        return tensor

    def close(self) -> None:
        dist.destroy_process_group()


@torch.no_grad()
def sum_gradients(parameters: Iterable[torch.nn.Parameter], ranks: Ranks) -> None:
    """Replace the gradients by their sums over the ranks, in one message."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if ranks.count == 1 or not gradients:
        return
    joined = ranks.sum_(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, summed in zip(gradients, joined.split(sizes), strict=True):
        gradient.copy_(summed.view(gradient.shape))


@torch.no_grad()
def broadcast_tensors(tensors: Iterable[Tensor], ranks: Ranks, device: torch.device) -> None:
    """Give every rank the values that rank 0 has; the ranks must hold tensors of the same shapes in the same order."""
    for tensor in tensors:
        # NCCL takes tensors of its device only, and some of an optimizer's live on the CPU.
        tensor.copy_(ranks.broadcast_(tensor.detach().to(device).contiguous()))
