"""Slow oracles: the equations of the papers as loops and sums over Python floats.

Written from the papers (Agent57, NGU, R2D2, Retrace; corrected where they misprint), not from our code, so
that agreement means something. Only tests call them; inputs are anything that nests lists of numbers by the
step convention of `agent57/structures.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

# --- Policy family (NGU appendix A, Agent57 appendix G.1) --------------------------------------------------


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def betas(num_policies: int, beta_max: float) -> list[float]:
    """beta_0 = 0, beta_{N-1} = beta_max, else beta_max * sigmoid(10 (2j - (N-2)) / (N-2))."""
    n, result = num_policies, []
    for j in range(n):
        if j == 0:
            result.append(0.0)
        elif j == n - 1:
            result.append(beta_max)
        else:
            result.append(beta_max * sigmoid(10.0 * (2 * j - (n - 2)) / (n - 2)))
    return result


def discounts(num_policies: int, gamma_max: float, gamma_mid: float, gamma_min: float) -> list[float]:
    """Agent57's ladder for N >= 10, NGU's for fewer."""
    n, result = num_policies, []
    for j in range(n):
        if n == 1 or j == 0:
            result.append(gamma_max)
        elif n < 10:
            log_horizon = ((n - 1 - j) * math.log(1 - gamma_max) + j * math.log(1 - gamma_min)) / (n - 1)
            result.append(1 - math.exp(log_horizon))
        elif j <= 6:
            result.append(gamma_mid + (gamma_max - gamma_mid) * sigmoid(10.0 * (6 - 2 * j) / 6))
        elif j == 7:
            result.append(gamma_mid)
        else:
            log_horizon = ((n - 1 - j) * math.log(1 - gamma_mid) + (j - 8) * math.log(1 - gamma_min)) / (n - 9)
            result.append(1 - math.exp(log_horizon))
    return result


def epsilon_greedy(q: Sequence[float], epsilon: float) -> list[float]:
    """Probability of each action: epsilon / A, and 1 - epsilon more for the first greedy one."""
    greedy = 0
    for action in range(len(q)):
        if q[action] > q[greedy]:
            greedy = action
    return [epsilon / len(q) + (1 - epsilon if action == greedy else 0.0) for action in range(len(q))]


# --- Value rescaling (R2D2 section 2.3) --------------------------------------------------------------------


def rescale(x: float, eps: float | None) -> float:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x; x itself for eps None."""
    if eps is None:
        return x
    return math.copysign(math.sqrt(abs(x) + 1) - 1, x) + eps * x


def unrescale(y: float, eps: float | None) -> float:
    """The x with h(x) = y, found by bisection: no closed form that could share a misprint."""
    if eps is None:
        return y
    low, high = 0.0, 1.0
    while rescale(high, eps) < abs(y):
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if rescale(middle, eps) < abs(y):
            low = middle
        else:
            high = middle
    return math.copysign((low + high) / 2, y)


def combine_q(q_ext: float, q_int: float, beta: float, mix: str, eps: float) -> float:
    """h(h^-1(Q^e) + beta h^-1(Q^i)) for "rescaled", Q^e + beta Q^i for "linear" (Agent57 section 3.1)."""
    if mix == "linear":
        return q_ext + beta * q_int
    return rescale(unrescale(q_ext, eps) + beta * unrescale(q_int, eps), eps)


# --- Targets (Retrace: Munos et al. 2016; Peng's Q(lambda): Peng and Williams 1994) ------------------------


def expected_value(target_q: Any, target_policy: Any, t: int, b: int, eps: float | None) -> float:
    """sum_a pi(a | x_t) h^-1(Q(x_t, a))."""
    return sum(
        float(target_policy[t][b][a]) * unrescale(float(target_q[t][b][a]), eps) for a in range(len(target_q[t][b]))
    )


def retrace_target(
    t: int,
    b: int,
    *,
    target_q: Any,
    target_policy: Any,
    actions: Any,
    behaviour_probs: Any,
    rewards: Any,
    discounts: Any,
    mask: Any,
    lambda_: float,
    eps: float | None,
) -> float:
    """h( h^-1 Q(x_t,a_t) + sum_{s>=t} (prod_{i=t+1..s} gamma_i c_i) delta_s ), s up to the episode's end."""

    def q_taken(s: int) -> float:
        return unrescale(float(target_q[s][b][int(actions[s][b])]), eps)

    total = q_taken(t)
    for s in range(t, len(mask)):
        if not mask[s][b]:
            break
        weight = 1.0
        for i in range(t + 1, s + 1):
            ratio = float(target_policy[i][b][int(actions[i][b])]) / float(behaviour_probs[i][b])
            weight *= float(discounts[i][b]) * lambda_ * min(1.0, ratio)
        bootstrap = float(discounts[s + 1][b]) * expected_value(target_q, target_policy, s + 1, b, eps)
        total += weight * (float(rewards[s + 1][b]) + bootstrap - q_taken(s))
    return rescale(total, eps)


def soft_watkins_coefficient(q: Any, policy: Any, action: int, lambda_: float, kappa: float) -> float:
    """lambda sum_a pi'(a) 1[Q(a_t) >= Q(a) - kappa |Q(a)|] of one step (MEME section 4 A2)."""
    kept = sum(float(policy[a]) for a in range(len(q)) if float(q[action]) >= float(q[a]) - kappa * abs(float(q[a])))
    return lambda_ * kept


def soft_watkins_target(
    t: int,
    b: int,
    *,
    target_q: Any,
    target_policy: Any,
    actions: Any,
    rewards: Any,
    discounts: Any,
    mask: Any,
    lambda_: float,
    kappa: float,
    eps: float | None,
    compare_q: Any = None,
) -> float:
    """h( V(x_t) + sum_{s>=t} (prod_{i=t+1..s} gamma_i lambda_i) (r_{s+1} + gamma_{s+1} V(x_{s+1}) - V(x_s)) )."""

    def value(s: int) -> float:
        return expected_value(target_q, target_policy, s, b, eps)

    compared = target_q if compare_q is None else compare_q
    total = value(t)
    for s in range(t, len(mask)):
        if not mask[s][b]:
            break
        weight = 1.0
        for i in range(t + 1, s + 1):
            trace = soft_watkins_coefficient(compared[i][b], target_policy[i][b], int(actions[i][b]), lambda_, kappa)
            weight *= float(discounts[i][b]) * trace
        total += weight * (float(rewards[s + 1][b]) + float(discounts[s + 1][b]) * value(s + 1) - value(s))
    return rescale(total, eps)


def outside_trust_region(q: float, centre_q: float, target: float, sigma: float, alpha: float) -> bool:
    """Beyond alpha sigma on one side of the centre, with the target still further on that side (MEME section 4 A1)."""
    if q > centre_q + alpha * sigma:
        return target > q
    if q < centre_q - alpha * sigma:
        return target < q
    return False


def n_step_return(
    t: int, n: int, b: int, *, target_q: Any, target_policy: Any, rewards: Any, discounts: Any, eps: float | None
) -> float:
    """sum_{m=1..n} (prod_{i=t+1..t+m-1} gamma_i) r_{t+m} + (prod_{i=t+1..t+n} gamma_i) E_pi h^-1 Q(x_{t+n})."""
    total, weight = 0.0, 1.0
    for m in range(1, n + 1):
        total += weight * float(rewards[t + m][b])
        weight *= float(discounts[t + m][b])
    return total + weight * expected_value(target_q, target_policy, t + n, b, eps)


def peng_target(t: int, b: int, *, mask: Any, lambda_: float, eps: float | None, **arrays: Any) -> float:
    """h of the lambda-weighted mixture of all n-step returns up to the last valid transition."""
    longest = 0
    while t + longest < len(mask) and mask[t + longest][b]:
        longest += 1
    total = 0.0
    for n in range(1, longest + 1):
        weight = lambda_ ** (n - 1) if n == longest else (1 - lambda_) * lambda_ ** (n - 1)
        total += weight * n_step_return(t, n, b, eps=eps, **arrays)
    return rescale(total, eps)


# --- Meta-controller (Agent57 section 3.2) -----------------------------------------------------------------


def window_statistics(
    history: Sequence[tuple[int, float]], num_arms: int, window: int
) -> tuple[list[int], list[float | None]]:
    """Pulls and mean return of each arm over the last ``window`` entries of ``history``; None where absent."""
    recent = list(history)[-window:]
    counts, means = [], []
    for arm in range(num_arms):
        returns = [episode_return for played, episode_return in recent if played == arm]
        counts.append(len(returns))
        means.append(math.fsum(returns) / len(returns) if returns else None)
    return counts, means


def ucb_choices(
    history: Sequence[tuple[int, float]], num_arms: int, window: int, ucb_bonus: float, normalize: bool = False
) -> set[int]:
    """Arms that argmax mean + ucb_bonus * sqrt(1 / count) may pick (several on a tie)."""
    recent = [episode_return for _, episode_return in list(history)[-window:]]
    counts, means = window_statistics(history, num_arms, window)
    absent = {arm for arm in range(num_arms) if counts[arm] == 0}
    if absent:
        return absent
    spread = max(recent) - min(recent)
    scale = spread if normalize and spread > 0 else 1.0
    scores = [(means[arm] or 0.0) / scale + ucb_bonus * math.sqrt(1 / counts[arm]) for arm in range(num_arms)]
    tolerance = 1e-9 * max(1.0, max(abs(score) for score in scores))
    return {arm for arm in range(num_arms) if scores[arm] >= max(scores) - tolerance}


# --- Intrinsic reward (NGU section 2, algorithm 1) ---------------------------------------------------------


class EpisodicMemory:
    """One lane's episodic memory: a list searched from end to end."""

    def __init__(
        self,
        capacity: int,
        num_neighbours: int = 10,
        kernel_epsilon: float = 1e-4,
        cluster_distance: float = 0.008,
        pseudo_count: float = 1e-3,
        max_similarity: float = 8.0,
        distance_decay: float = 0.999,
        pad_neighbours: bool = False,
    ) -> None:
        self.capacity = capacity
        self.num_neighbours = num_neighbours
        self.kernel_epsilon = kernel_epsilon
        self.cluster_distance = cluster_distance
        self.pseudo_count = pseudo_count
        self.max_similarity = max_similarity
        self.distance_decay = distance_decay
        self.pad_neighbours = pad_neighbours
        self.entries: list[list[float]] = []
        self.mean_distances: list[float] = []

    def reset(self) -> None:
        self.entries = []

    def bonus(self, embedding: Any) -> float:
        point = [float(value) for value in embedding]
        enough = 1 if self.pad_neighbours else self.num_neighbours
        reward = self._reward(point) if len(self.entries) >= enough else 0.0
        self.entries = [*self.entries, point][-self.capacity :]
        return reward

    def _reward(self, point: list[float]) -> float:
        squared = sorted(sum((a - b) ** 2 for a, b in zip(point, entry, strict=True)) for entry in self.entries)
        nearest = squared[: self.num_neighbours]
        self.mean_distances.append(sum(nearest) / len(nearest))
        numerator = denominator = 0.0
        for age, mean_distance in enumerate(reversed(self.mean_distances)):
            numerator += self.distance_decay**age * mean_distance
            denominator += self.distance_decay**age
        average = numerator / denominator
        kernels = 0.0
        # A neighbour that is not there yet is one at the average distance.
        absent = self.num_neighbours - len(nearest)
        for relative in [distance / average if average > 0 else 0.0 for distance in nearest] + [1.0] * absent:
            kernels += self.kernel_epsilon / (max(relative - self.cluster_distance, 0.0) + self.kernel_epsilon)
        similarity = math.sqrt(kernels) + self.pseudo_count
        return 0.0 if similarity > self.max_similarity else 1 / similarity


def lifelong_multipliers(batches: Sequence[Any]) -> list[list[float]]:
    """1 + (err - mean) / std for each batch of errors, over all errors so far, the batch's own included."""
    seen: list[float] = []
    result = []
    for batch in batches:
        seen += [float(error) for error in batch]
        mean, std = float(np.mean(seen)), float(np.std(seen))
        result.append([1 + (float(error) - mean) / std if std > 0 else 1.0 for error in batch])
    return result


def lifelong_multipliers_over_a_run(batches: Sequence[Any], horizon: float) -> list[list[float]]:
    """1 + (err - mean) / std by sums with a weight for each batch: of two averages, that with the lower mean counts.

    The recent one runs over a 64th of the steps so far, the lasting one over all or, while the recent one is lower,
    over an eighth; 1 000 steps at least, and a run counts as ``horizon`` steps old at most.
    """

    def moments(weights: list[float]) -> tuple[float, float]:
        mean = sum(weight * float(np.mean(batch)) for weight, batch in zip(weights, batches, strict=False))
        square = sum(weight * float(np.mean(np.square(batch))) for weight, batch in zip(weights, batches, strict=False))
        return mean, square - mean**2

    recent: list[float] = []
    lasting: list[float] = []
    age = 0.0
    result = []
    for batch in batches:
        falling = moments(recent)[0] < moments(lasting)[0]
        age = min(age + len(batch), horizon)
        for weights, over in ((recent, age / 64), (lasting, age / 8 if falling else age)):
            newest = min(1.0, len(batch) / min(max(over, 1000), age))
            weights[:] = [(1 - newest) * weight for weight in weights] + [newest]
        mean, variance = min(moments(recent), moments(lasting))
        result.append([1 + (float(error) - mean) / math.sqrt(variance) for error in batch])
    return result
