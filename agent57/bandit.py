"""The sliding-window UCB bandit with which the meta-controller picks policies.

Agent57 section 3.2 and appendix ("Meta-controller"; Garivier & Moulines 2008). One bandit per lane, or one
shared by all; arms are policy indices, rewards are undiscounted extrinsic episode returns.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np


class SlidingWindowUCB:
    """Chooses among ``num_arms`` arms from the last ``window`` returns.

    The first ``num_arms`` choices take each arm once. Afterwards: with probability ``epsilon`` a uniform arm,
    else argmax_a mean_w(a) + ucb_bonus sqrt(1 / N_w(a)), where an arm absent from the window counts as
    infinite and ties are broken at random. ``update`` must be called only for an episode that was really
    played with that arm. Choices may run ahead of updates, as they do when lanes share a bandit: those in flight
    count as pulls in N_w, or all lanes that ask together would get the same arm.
    """

    def __init__(
        self,
        num_arms: int,
        window: int,
        epsilon: float,
        ucb_bonus: float,
        rng: np.random.Generator,
        normalize_returns: bool = False,
    ) -> None:
        self.num_arms = num_arms
        self.epsilon = epsilon
        self.ucb_bonus = ucb_bonus
        self.normalize_returns = normalize_returns
        self._rng = rng
        self._num_choices = 0
        self._pulls: deque[tuple[int, float]] = deque(maxlen=window)
        # Counts and scaled means until the next update: lanes that share a bandit choose many times in between.
        self._known: tuple[np.ndarray, np.ndarray] | None = None

    def select(self, in_flight: np.ndarray | None = None) -> int:
        """The arm to play next; ``in_flight`` int [N]: choices of each arm whose returns are not known yet.

        An arm of which nothing but such choices is known counts as average.
        """
        self._num_choices += 1
        if self._num_choices <= self.num_arms:
            return self._num_choices - 1
        if self._rng.random() < self.epsilon:
            return int(self._rng.integers(self.num_arms))
        if self._known is None:
            self._known = self.counts, self._scaled_means()
        known, means = self._known
        pulls = known if in_flight is None else known + in_flight
        average = float((known * means).sum() / max(known.sum(), 1))
        bonus = self.ucb_bonus * np.sqrt(1 / np.maximum(pulls, 1))
        return self._argmax(np.where(pulls > 0, np.where(known > 0, means, average) + bonus, np.inf))

    def update(self, arm: int, episode_return: float) -> None:
        """Remember that an episode played with ``arm`` returned ``episode_return``.

        A return that is not finite would poison the arm for a whole window: it raises ValueError.
        """
        if not 0 <= arm < self.num_arms:
            raise ValueError(f"arm {arm} is not in 0..{self.num_arms - 1}")
        if not np.isfinite(episode_return):
            raise ValueError(f"episode return {episode_return} is not finite")
        self._pulls.append((int(arm), float(episode_return)))
        self._known = None

    def greedy_arm(self) -> int:
        """The arm of the highest mean in the window, without bonus; arm 0 while nothing was played."""
        counts = self.counts
        if not counts.any():
            return 0
        return int(np.argmax(np.where(counts > 0, self.means, -np.inf)))

    def lately_best_arm(self, half_life: float) -> int | None:
        """The arm of the highest recent mean less its standard error; None while nothing was played.

        A pull weighs half as much as one ``half_life`` pulls later, so an arm that got worse is left soon, however good
        it was before; an arm's weights are relative to its newest pull. The variance is pooled over the arms. Without
        the standard error a single lucky pull would win. The first of equal arms is taken.
        """
        if not self._pulls:
            return None
        arms, returns = (np.array(column) for column in zip(*self._pulls, strict=True))
        age = np.arange(len(arms))[::-1]
        newest = np.full(self.num_arms, len(arms))
        np.minimum.at(newest, arms, age)
        weights = 0.5 ** ((age - newest[arms]) / half_life)
        total, squares, sums = (
            np.bincount(arms, values, self.num_arms) for values in (weights, weights**2, weights * returns)
        )
        played = total > 0
        mean = np.divide(sums, total, out=np.full(self.num_arms, -np.inf), where=played)
        # 1 / number of pulls that would tell as much if all weighed the same.
        share = np.divide(squares, total**2, out=np.ones(self.num_arms), where=played)
        freedom = (total * (1 - share)).sum()
        variance = (weights * (returns - mean[arms]) ** 2).sum() / freedom if freedom > 0 else 0.0
        return int(np.argmax(mean - np.sqrt(variance * share)))

    @property
    def counts(self) -> np.ndarray:
        """Pulls of each arm in the window, int64 [N]."""
        arms = np.fromiter((arm for arm, _ in self._pulls), np.int64, len(self._pulls))
        return np.bincount(arms, minlength=self.num_arms)

    @property
    def means(self) -> np.ndarray:
        """Mean return of each arm in the window, float64 [N]; 0 for an absent arm."""
        sums = np.zeros(self.num_arms)
        for arm, episode_return in self._pulls:
            sums[arm] += episode_return
        return sums / np.maximum(self.counts, 1)

    def state_dict(self) -> dict[str, Any]:
        """All state, the random generator's included, as JSON-able values."""
        return {
            "num_arms": self.num_arms,
            "num_choices": self._num_choices,
            "arms": [arm for arm, _ in self._pulls],
            "returns": [episode_return for _, episode_return in self._pulls],
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``; a family of another size raises ValueError."""
        if state["num_arms"] != self.num_arms:
            raise ValueError(f"the saved bandit has {state['num_arms']} arms, this one {self.num_arms}")
        self._num_choices = state["num_choices"]
        self._pulls.clear()
        self._known = None
        self._pulls.extend(zip(state["arms"], state["returns"], strict=True))
        self._rng.bit_generator.state = state["rng"]

    def _scaled_means(self) -> np.ndarray:
        means = self.means
        if not self.normalize_returns or not self._pulls:
            return means
        returns = [episode_return for _, episode_return in self._pulls]
        low, high = min(returns), max(returns)
        return (means - low) / (high - low) if high > low else np.zeros(self.num_arms)

    def _argmax(self, scores: np.ndarray) -> int:
        return int(self._rng.choice(np.flatnonzero(scores == scores.max())))
