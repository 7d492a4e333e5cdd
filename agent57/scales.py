"""Running standard deviations, and every division by them: of TD errors and of intrinsic rewards.

Not in the paper: `LossConfig.normalize_td` and ``normalize_intrinsic`` turn them on. They travel with the weights, so
that priorities that actors compute are those of the learner.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from agent57.structures import NET_NAMES

DECAY = 0.999
"""Of the running moments, per update."""
FLOOR = 1e-4
"""Smallest scale."""
POLICY_FLOOR = 0.01
"""Smallest scale of the TD errors of a policy. MEME section 4 B1."""


class Scales(nn.Module):
    """What TD errors and intrinsic rewards are divided by; 1 until `RunningScales` says otherwise.

    ``td`` is a scale for each network, [2] or [1], or for each network and policy, [2, N], or [N] of a shared network.
    ``intrinsic`` is [].
    """

    td: Tensor
    intrinsic: Tensor

    def __init__(self, num_policies: int | None = None, names: tuple[str, ...] = NET_NAMES) -> None:
        """``num_policies``: make a scale for each policy; None: one for all. ``names`` of the networks."""
        super().__init__()
        self.names, self.per_policy = names, num_policies is not None
        shape = [len(names)] if num_policies is None else [len(names), num_policies]
        if len(names) == 1 and num_policies is not None:
            shape = [num_policies]
        self.register_buffer("td", torch.ones(shape))
        self.register_buffer("intrinsic", torch.ones(()))

    def on_cpu(self) -> Scales:
        """These scales on the CPU."""
        return self if self.td.device.type == "cpu" else copy.deepcopy(self).cpu()

    def rewards(self, intrinsic_rewards: Tensor) -> Tensor:
        """Intrinsic rewards of any shape, as networks see and learn them."""
        return intrinsic_rewards / self.intrinsic

    def of_sequences(self, policy_index: Tensor, statistics: Tensor | None = None) -> Tensor:
        """sigma [nets, 1, B] of the TD errors of sequences with these policies [B].

        A policy's own scale is no smaller than the standard deviation of its errors in this batch, where the
        ``statistics`` of that are given (`summed`). MEME section 4 B1.
        """
        if not self.per_policy:
            return self.td.view(-1, 1, 1)
        sigma = self.by_network
        if statistics is not None:
            sigma = torch.maximum(sigma, std_of(statistics[:-1]).view_as(sigma)).clamp(min=POLICY_FLOOR)
        return sigma[:, policy_index].unsqueeze(1)

    def of_network(self, net: int) -> Tensor:
        """One number for the TD errors of network ``net``, []: the mean over its policies."""
        return self.by_network[net].mean()

    @property
    def by_network(self) -> Tensor:
        """``td`` as [nets, N], or [nets, 1]."""
        return self.td.view(len(self.names), -1)

    def by_name(self) -> dict[str, Tensor]:
        """Every scale, [], by the name of its metric; of policies' scales their mean too."""
        named = {f"td_scale_{name}": self.of_network(net) for net, name in enumerate(self.names)}
        if self.per_policy:
            named |= {
                f"td_scale_{name}/{j:02}": each
                for name, of_net in zip(self.names, self.by_network, strict=True)
                for j, each in enumerate(of_net)
            }
        return {**named, "intrinsic_scale": self.intrinsic}

    def summed(self, td_errors: Tensor, mask: Tensor, policy_index: Tensor, intrinsic_rewards: Tensor) -> Tensor:
        """Count, sum and sum of squares, [groups, 3]: of raw TD errors [nets, T, M] by network, or by network and
        policy as ``td`` is, then of raw ``intrinsic_rewards`` [T, B]. ``mask`` [T, B] says which steps count.

        M is B, or a multiple of it: several errors for each sequence, beside each other. ``policy_index`` [M].
        """
        td = _power_sums(td_errors.detach(), mask.repeat_interleave(td_errors.shape[-1] // mask.shape[-1], 1))
        if self.per_policy:
            groups = torch.zeros(*self.by_network.shape, 3, device=td.device, dtype=td.dtype)
            td = groups.index_add_(1, policy_index, td).flatten(0, 1)
        else:
            td = td.sum(1)
        return torch.cat([td, _power_sums(intrinsic_rewards[None], mask).sum(1)])


def _power_sums(values: Tensor, mask: Tensor) -> Tensor:
    """Count, sum and sum of squares over time, where ``mask`` [T, M] says so: [K, T, M] -> [K, M, 3]."""
    valid = mask.to(values.dtype)
    return torch.stack([valid.expand_as(values), values * valid, values.square() * valid], -1).sum(1)


def std_of(statistics: Tensor) -> Tensor:
    """Standard deviations [groups] of what `Scales.summed` summed; 0 where there is nothing."""
    count, total, squares = statistics.unbind(1)
    count = count.clamp(min=1)
    return (squares / count - (total / count).square()).clamp(min=0).sqrt()


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
    def update(self, statistics: Tensor, which: tuple[bool, bool], taken: Tensor | None = None) -> None:
        """Take in a batch, all ranks' parts of it, by its ``statistics`` (`Scales.summed`).

        ``which`` of the scales (TD errors, intrinsic rewards) are wanted. Where ``taken`` [] is False nothing changes.
        """
        means = statistics[:, 1:] / statistics[:, :1].clamp(min=1)
        # Squares may overflow where errors do not; the moments would keep an infinity for ever.
        counts = (statistics[:, 0] > 0) & means.isfinite().all(1)
        if taken is not None:
            counts &= taken
        share = torch.where(counts, 1 - DECAY, 0.0)
        self.moments.lerp_(
            torch.where(counts[:, None], means, 0).to(self.moments.dtype), share[:, None].to(self.moments.dtype)
        )
        self.weights += share * (1 - self.weights)
        mean, mean_square = (self.moments / self.weights.clamp(min=1e-12)[:, None]).unbind(1)
        std = (mean_square - mean.square()).clamp(min=0).sqrt().clamp(min=FLOOR)
        std = torch.where(self.weights > 0, std, 1.0).to(self.scales.td.dtype)
        if which[0]:
            floor = POLICY_FLOOR if self.scales.per_policy else FLOOR
            self._set(self.scales.td, std[:-1].view_as(self.scales.td).clamp(min=floor), taken)
        if which[1]:
            self._set(self.scales.intrinsic, std[-1], taken)

    @staticmethod
    def _set(scale: Tensor, value: Tensor, taken: Tensor | None) -> None:
        scale.copy_(value if taken is None else torch.where(taken, value, scale))

    def tensors(self) -> list[Tensor]:
        """What makes up the state, to be copied in place."""
        return [self.moments, self.weights]

    def state_dict(self) -> dict[str, Tensor]:
        return {"moments": self.moments, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``. Raises RuntimeError if it is of another number of scales."""
        self.moments.copy_(state["moments"])
        self.weights.copy_(state["weights"])
