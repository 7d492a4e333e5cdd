"""The value rescaling h and its inverse, and the mix of the two Q-functions under it.

Pohlen et al. 2018 (h), Agent57 section 3.1 (the mix). NGU's appendix prints h^-1 without its square; this
one is the true inverse.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from agent57.structures import Array


def rescale(x: Array, eps: float = 1e-3) -> Array:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x, elementwise.

    Evaluated in an equal form: the printed one subtracts nearly equal numbers where x is small.
    """
    return x / ((abs(x) + 1) ** 0.5 + 1) + eps * x


def unrescale(x: Array, eps: float = 1e-3) -> Array:
    """h^-1(x) = sign(x) (((sqrt(1 + 4 eps (|x| + 1 + eps)) - 1) / (2 eps))^2 - 1), elementwise.

    Evaluated in an equal form: the printed one subtracts nearly equal numbers, which costs float32 three of
    its digits around x = 0.
    """
    # r = sqrt(|h^-1| + 1) - 1 is the positive root of eps r^2 + (1 + 2 eps) r - |x| = 0; here it has the sign of x.
    linear = 1 + 2 * eps
    root = 2 * x / (linear + (linear * linear + 4 * eps * abs(x)) ** 0.5)
    return root * (abs(root) + 2)


def combine_q(q_ext: Tensor, q_int: Tensor, beta: Tensor, mix: str, eps: float) -> Tensor:
    """h(h^-1(Q^e) + beta h^-1(Q^i)) for ``mix`` "rescaled", Q^e + beta Q^i for "linear".

    ``beta`` broadcasts against the Q-values [..., A]. Agent57 section 3.1 and its appendix.
    """
    if mix == "linear":
        return q_ext + beta * q_int
    return rescale(unrescale(q_ext, eps) + beta * unrescale(q_int, eps), eps)


def greedy_actions(q: np.ndarray, beta: np.ndarray, mix: str, eps: float) -> np.ndarray:
    """The argmax of `combine_q`: Q-values [2, ..., A] (extrinsic, intrinsic), ``beta`` [..., 1] -> int64 [...].

    h is left out of it, because it rises everywhere.
    """
    values = q if mix == "linear" else unrescale(q, eps)
    return (values[0] + beta * values[1]).argmax(-1)
