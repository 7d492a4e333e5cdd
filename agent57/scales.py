"""Running standard deviations, and every division by them: of TD errors and of intrinsic rewards.

Not in the paper: `LossConfig.normalize_td` and ``normalize_intrinsic`` turn them on. They travel with the weights, so
that priorities that actors compute are those of the learner.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

DECAY = 0.999
"""Of the running moments, per update."""
FLOOR = 1e-4
"""Smallest scale."""


class Scales(nn.Module):
    """What TD errors and intrinsic rewards are divided by; 1 until `RunningScales` says otherwise.

    ``td`` is [2], a scale for each network, or [2, N], one for each network and policy. ``intrinsic`` is [].
    """

    td: Tensor
    intrinsic: Tensor

    def __init__(self, num_policies: int | None = None) -> None:
        """``num_policies``: make a scale for each policy; None: one for all."""
        super().__init__()
        self.register_buffer("td", torch.ones(2) if num_policies is None else torch.ones(2, num_policies))
        self.register_buffer("intrinsic", torch.ones(()))

    @classmethod
    def of(cls, td: Tensor, intrinsic: Tensor) -> Scales:
        """Scales with these values."""
        scales = cls()
        scales.td, scales.intrinsic = td, intrinsic
        return scales

    def rewards(self, intrinsic_rewards: Tensor) -> Tensor:
        """Intrinsic rewards of any shape, as networks see and learn them."""
        return intrinsic_rewards / self.intrinsic

    def errors(self, td_errors: Tensor, policy_index: Tensor) -> Tensor:
        """TD errors [2, T, B] of sequences with these policies [B], as loss and priorities see them."""
        return td_errors / self._of_sequences(policy_index)

    def raw_errors(self, td_errors: Tensor, policy_index: Tensor) -> Tensor:
        """The inverse of `errors`."""
        return td_errors * self._of_sequences(policy_index)

    def of_network(self, net: int) -> Tensor:
        """One number for the TD errors of network ``net``, []: the mean over its policies."""
        return self.td[net].mean()

    def _of_sequences(self, policy_index: Tensor) -> Tensor:
        scales = self.td if self.td.dim() == 1 else self.td[:, policy_index]
        return scales.view(2, 1, -1)


class RunningScales:
    """The moments that `Scales` come from, one pair for each of its numbers.

    A policy of which a batch has no sample keeps its own.
    """

    def __init__(self, scales: Scales) -> None:
        self.scales = scales
        groups = scales.td.numel() + 1
        self.moments = torch.zeros(groups, 2, device=scales.td.device)
        """Running (mean, mean square) of each, not yet corrected for their beginning at 0."""
        self.weights = torch.zeros(groups, dtype=torch.float64, device=scales.td.device)

    @torch.no_grad()
    def update(
        self,
        td_errors: Tensor,
        intrinsic_rewards: Tensor,
        mask: Tensor,
        policy_index: Tensor,
        which: tuple[bool, bool],
        sum_over_ranks: Callable[[Tensor], Tensor],
    ) -> None:
        """Take in a batch: ``td_errors`` [2, T, B] as `Scales.errors` gave them, raw ``intrinsic_rewards`` [T, B].

        ``mask`` [T, B] says which steps count; ``which`` of the scales (TD errors, intrinsic rewards) are wanted.
        """
        raw = torch.cat([self.scales.raw_errors(td_errors, policy_index), intrinsic_rewards[None]])
        valid = mask.to(raw.dtype)
        per_sequence = torch.stack([valid.expand_as(raw), raw * valid, raw.square() * valid], -1).sum(1)  # [3, B, 3]
        td = per_sequence[:2]
        if self.scales.td.dim() == 1:
            td = td.sum(1)
        else:
            td = torch.zeros(*self.scales.td.shape, 3, device=td.device, dtype=td.dtype).index_add_(1, policy_index, td)
        sums = sum_over_ranks(torch.cat([td.flatten(0, -2), per_sequence[2].sum(0, keepdim=True)]))
        means = sums[:, 1:] / sums[:, :1].clamp(min=1)
        # Squares may overflow where errors do not; the moments would keep an infinity for ever.
        counts = (sums[:, 0] > 0) & means.isfinite().all(1)
        share = torch.where(counts, 1 - DECAY, 0.0)
        self.moments.lerp_(
            torch.where(counts[:, None], means, 0).to(self.moments.dtype), share[:, None].to(self.moments.dtype)
        )
        self.weights += share * (1 - self.weights)
        mean, mean_square = (self.moments / self.weights.clamp(min=1e-12)[:, None]).unbind(1)
        std = (mean_square - mean.square()).clamp(min=0).sqrt().clamp(min=FLOOR)
        std = torch.where(self.weights > 0, std, 1.0).to(self.scales.td.dtype)
        if which[0]:
            self.scales.td.copy_(std[:-1].view_as(self.scales.td))
        if which[1]:
            self.scales.intrinsic.copy_(std[-1])

    def tensors(self) -> list[Tensor]:
        """What makes up the state, to be copied in place."""
        return [self.moments, self.weights]

    def state_dict(self) -> dict[str, Tensor]:
        return {"moments": self.moments, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``. Raises RuntimeError if it is of another number of scales."""
        self.moments.copy_(state["moments"])
        self.weights.copy_(state["weights"])
