"""The few smallest of many numbers, for look-ups of nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor


def smallest(scores: Tensor, k: int, groups: int) -> tuple[Tensor, Tensor]:
    """(the k smallest of each row in any order, where they are), both [L, k], as ``topk`` finds them.

    ``scores`` [L, n], n a multiple of ``groups``. Among many, it first looks for the k columns with the smallest
    minima of n / ``groups`` columns of ``groups`` scores each: none of the k smallest lies elsewhere.
    """
    columns = scores.shape[1] // groups
    if columns < 4 * k:
        return scores.topk(k, dim=1, largest=False, sorted=False)
    table = scores.unflatten(1, (groups, columns))
    best = table.amin(1).topk(k, dim=1, largest=False, sorted=False).indices
    candidates = table.gather(2, best.unsqueeze(1).expand(-1, groups, -1)).flatten(1)
    values, chosen = candidates.topk(k, dim=1, largest=False, sorted=False)
    rows = torch.div(chosen, k, rounding_mode="floor")
    return values, rows * columns + best.gather(1, chosen % k)


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
