"""Assigns policies to lanes: the state of record of all bandits.

Agent57 section 3.2: one sliding-window UCB bandit per lane (``scope = "lane"``), or one shared by all. Owned by
the supervisor. Workers get policies ahead of time with each request, so no lane ever waits for one; only
episodes that were really played come back as pulls.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np

from actors.rollout import Episode
from agent57.bandit import SlidingWindowUCB
from agent57.config import BanditConfig

MAX_AHEAD = 3
"""Policies that lie ready in one lane at most: an episode is played at most this many after it was chosen."""


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
        # Most episodes that a lane finished within one of its newest requests: what it must hold to not run out.
        self._demand = np.ones(num_lanes, np.int64)
        # Per lane, oldest first: (arm, episodes that the lane had finished when it was chosen), until it was played.
        self._flying: list[deque[tuple[int, int]]] = [deque() for _ in range(num_lanes)]
        self._in_flight = np.zeros((count, num_policies), np.int64)
        self._finished = np.zeros(num_lanes, np.int64)

    def top_up(self, lanes: Iterable[int], arms_left: list[int]) -> list[list[int]]:
        """Policies to send to ``lanes``, which still hold ``arms_left``, so that the next request hardly runs out.

        At most `MAX_AHEAD` lie ready in a lane: an old choice knows nothing of the newest returns.
        """
        chosen = []
        for lane, left in zip(lanes, arms_left, strict=True):
            # Beside those left there is the one being played; the others went with a lane's former life.
            while len(self._flying[lane]) > left + 1:
                self._land(lane)
            idle = len(self._flying[lane]) == left
            wanted = min(int(self._demand[lane]) + idle, MAX_AHEAD)
            chosen.append([self._send(lane) for _ in range(wanted - left)])
        return chosen

    def abandon(self, lanes: Iterable[int]) -> None:
        """Forget what ``lanes`` were told to play: nobody will, because their worker is gone."""
        for lane in lanes:
            while self._flying[lane]:
                self._land(lane)

    def _send(self, lane: int) -> int:
        arm = self._select(lane)
        self._flying[lane].append((arm, int(self._finished[lane])))
        self._in_flight[self._of(lane), arm] += 1
        return arm

    def _land(self, lane: int) -> tuple[int, int]:
        arm, finished_before = self._flying[lane].popleft()
        self._in_flight[self._of(lane), arm] -= 1
        return arm, finished_before

    def _select(self, lane: int) -> int:
        match self.config.assignment:
            case "per_lane":
                return lane % self.num_policies
            case "most_exploratory":
                return self.num_policies - 1
        return self._bandit(lane).select(self._in_flight[self._of(lane)])

    def record(self, episodes: list[Episode]) -> list[int]:
        """Count the pulls of the episodes that one request finished.

        Returns, for each that a choice led to, how many other episodes its lane played between choice and play.
        """
        lags = []
        for episode in episodes:
            lane, arm = episode.lane, episode.policy_index
            # One bad number costs its pull, not the run.
            if math.isfinite(episode.extrinsic_return):
                self._bandit(lane).update(arm, episode.extrinsic_return)
            else:
                self.refused_returns += 1
            if any(arm == sent for sent, _ in self._flying[lane]):
                landed, finished_before = self._land(lane)
                while landed != arm:
                    landed, finished_before = self._land(lane)
                lags.append(int(self._finished[lane]) - finished_before)
            self._finished[lane] += 1
        if episodes:
            finished = np.bincount([episode.lane for episode in episodes], minlength=self.num_lanes)
            self._demand = np.where(finished > 0, np.maximum(finished, self._demand - 1), self._demand)
        return lags

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
        return self._bandits[self._of(lane)]

    def _of(self, lane: int) -> int:
        """Number of the bandit that decides for ``lane``."""
        return lane if self.config.scope == "lane" else 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "scope": self.config.scope,
            "bandits": [bandit.state_dict() for bandit in self._bandits],
            "demand": self._demand.copy(),
            "finished": self._finished.copy(),
            "flying": [[list(choice) for choice in of_lane] for of_lane in self._flying],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``, bandits by lane; lanes that it does not know start afresh.

        Raises ValueError for another number of policies or another scope.
        """
        if state["scope"] != self.config.scope:
            raise ValueError(f"the checkpoint's bandits have scope {state['scope']}, not {self.config.scope}")
        for bandit, saved in zip(self._bandits, state["bandits"], strict=False):
            bandit.load_state_dict(saved)
        shared = min(self.num_lanes, len(state["demand"]))
        self._demand[:shared] = state["demand"][:shared]
        self._finished[:shared] = state["finished"][:shared]
        self.abandon(range(self.num_lanes))
        for lane, choices in enumerate(state["flying"][:shared]):
            for arm, finished_before in choices:
                self._flying[lane].append((arm, finished_before))
                self._in_flight[self._of(lane), arm] += 1
