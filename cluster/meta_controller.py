"""Assigns policies to lanes: the state of record of all bandits.

Agent57 section 3.2: one sliding-window UCB bandit per lane (``scope = "lane"``), or one shared by all. Owned by
the supervisor. Workers get policies ahead of time with each request, so no lane ever waits for one; only
episodes that were really played come back as pulls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from actors.rollout import Episode
from agent57.bandit import SlidingWindowUCB
from agent57.config import BanditConfig


class MetaController:
    """Bandits of ``num_lanes`` lanes over ``num_policies`` arms."""

    def __init__(self, config: BanditConfig, num_policies: int, num_lanes: int, seed: int) -> None:
        self.config, self.num_policies, self.num_lanes = config, num_policies, num_lanes
        count = num_lanes if config.scope == "lane" else 1
        seeds = np.random.SeedSequence([seed, 3]).spawn(count)
        self._bandits = [
            SlidingWindowUCB(
                num_policies,
                config.window,
                config.epsilon,
                config.ucb_bonus,
                np.random.default_rng(child),
                config.normalize_returns,
            )
            for child in seeds
        ]
        self.refused_returns = 0
        # Most episodes that one lane finished within one request: what a lane must hold to never run out.
        self._demand = np.ones(num_lanes, np.int64)

    def top_up(self, lanes: Iterable[int], arms_left: list[int]) -> list[list[int]]:
        """Policies to send to ``lanes``, which still hold ``arms_left``, so that the next request never runs out."""
        return [
            [self._select(lane) for _ in range(max(0, 1 + int(self._demand[lane]) - left))]
            for lane, left in zip(lanes, arms_left, strict=True)
        ]

    def _select(self, lane: int) -> int:
        match self.config.assignment:
            case "per_lane":
                return lane % self.num_policies
            case "most_exploratory":
                return self.num_policies - 1
        return self._bandit(lane).select()

    def record(self, episodes: list[Episode]) -> None:
        """Count the pulls of the episodes that one request finished."""
        for episode in episodes:
            # One bad number costs its pull, not the run.
            if math.isfinite(episode.extrinsic_return):
                self._bandit(episode.lane).update(episode.policy_index, episode.extrinsic_return)
            else:
                self.refused_returns += 1
        if episodes:
            finished = np.bincount([episode.lane for episode in episodes], minlength=self.num_lanes)
            self._demand = np.maximum(self._demand, finished)

    @property
    def counts(self) -> np.ndarray:
        """Pulls of each policy in all windows together, [N]."""
        return np.sum([bandit.counts for bandit in self._bandits], 0)

    @property
    def means(self) -> np.ndarray:
        """Mean return of each policy over all windows together, [N]; NaN where it was not pulled."""
        totals = np.sum([bandit.counts * bandit.means for bandit in self._bandits], 0)
        return np.where(self.counts > 0, totals / np.maximum(self.counts, 1), np.nan)

    def favourite_arm(self) -> int:
        """The policy of the highest mean return over all windows; 0 while nothing was played."""
        return int(np.nanargmax(self.means)) if self.counts.any() else 0

    def _bandit(self, lane: int) -> SlidingWindowUCB:
        return self._bandits[lane if self.config.scope == "lane" else 0]

    def state_dict(self) -> dict[str, Any]:
        return {
            "scope": self.config.scope,
            "bandits": [bandit.state_dict() for bandit in self._bandits],
            "demand": self._demand.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``, bandits by lane; lanes that it does not know start afresh.

        Raises ValueError for another number of policies or another scope.
        """
        if state["scope"] != self.config.scope:
            raise ValueError(f"the checkpoint's bandits have scope {state['scope']}, not {self.config.scope}")
        for bandit, saved in zip(self._bandits, state["bandits"], strict=False):
            bandit.load_state_dict(saved)
        shared = min(len(self._demand), len(state["demand"]))
        self._demand[:shared] = state["demand"][:shared]
