"""The family of N policies and how a lane acts on one of them.

Agent57 appendix ("Hyperparameters", the beta_j and gamma_j formulas), NGU appendix (small families), R2D2
(the epsilon ladder). The discount formula printed in Agent57 is wrong twice; the one below falls from
gamma_0 to gamma_{N-1}, as the paper's figure and text say.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from agent57.config import PolicyFamilyConfig


class PolicyFamily:
    """The pairs (beta_j, gamma_j), j = 0..N-1, as numpy arrays ``betas`` and ``discounts`` of shape [N].

    beta rises from 0 (j = 0 is purely extrinsic) to ``beta_max``; gamma does not increase with j.
    """

    def __init__(
        self,
        num_policies: int = 32,
        beta_max: float = 0.3,
        gamma_max: float = 0.9999,
        gamma_mid: float = 0.997,
        gamma_min: float = 0.99,
        ladder: str = "agent57",
    ) -> None:
        self.num_policies = num_policies
        self.betas = np.array([_beta(j, num_policies, beta_max) for j in range(num_policies)])
        self.discounts = np.array(
            [
                _log_ladder(j / (num_policies - 1), gamma_max, gamma_min)
                if ladder == "log_uniform" and num_policies > 1
                else _discount(j, num_policies, gamma_max, gamma_mid, gamma_min)
                for j in range(num_policies)
            ]
        )

    @classmethod
    def of(cls, config: PolicyFamilyConfig) -> PolicyFamily:
        """The family that ``config`` describes."""
        return cls(**vars(config))


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def _beta(j: int, n: int, beta_max: float) -> float:
    if j == 0:
        return 0.0
    if j == n - 1:
        return beta_max
    return beta_max * _sigmoid(10 * (2 * j - (n - 2)) / (n - 2))


def _discount(j: int, n: int, gamma_max: float, gamma_mid: float, gamma_min: float) -> float:
    if n == 1 or j == 0:
        return gamma_max
    if n < 10:
        return _log_ladder(j / (n - 1), gamma_max, gamma_min)
    if j <= 6:
        return gamma_mid + (gamma_max - gamma_mid) * _sigmoid(10 * (6 - 2 * j) / 6)
    if j == 7:
        return gamma_mid
    return _log_ladder((j - 8) / (n - 9), gamma_mid, gamma_min)


def _log_ladder(fraction: float, first: float, last: float) -> float:
    """The discount whose ln(1 - gamma) lies ``fraction`` of the way from ``first``'s to ``last``'s."""
    return 1.0 - math.exp((1 - fraction) * math.log(1 - first) + fraction * math.log(1 - last))


def lane_epsilons(num_lanes: int, base: float = 0.4, alpha: float = 8.0) -> np.ndarray:
    """base^(1 + alpha l / (L - 1)) for l = 0..L-1, float64 [L]. R2D2 / Ape-X.

    The epsilon belongs to the lane, whatever policy it plays. A single lane gets ``base``.
    """
    exponents = 1 + alpha * np.arange(num_lanes) / max(num_lanes - 1, 1)
    return base**exponents


def epsilon_greedy(q: Tensor, epsilon: float | Tensor) -> Tensor:
    """epsilon / A for every action, plus 1 - epsilon for the first greedy one. [..., A] -> [..., A].

    ``epsilon`` is a number or broadcasts against ``q``'s leading dimensions, [...].
    """
    num_actions = q.shape[-1]
    dtype = q.dtype if q.is_floating_point() else torch.get_default_dtype()
    epsilon = torch.as_tensor(epsilon, dtype=dtype, device=q.device)
    if epsilon.ndim:
        epsilon = epsilon.unsqueeze(-1)
    probabilities = (epsilon / num_actions).expand(q.shape).clone()
    greedy = q.argmax(-1, keepdim=True)
    return probabilities.scatter_add_(-1, greedy, (1 - epsilon).expand(greedy.shape))
