"""Scores of many games in a few numbers: interquartile mean and friends of human-normalised scores, with intervals.

Agarwal et al. 2021 (arXiv:2108.13264), as their library rliable computes them: statistics over all runs of all games
at once, and a bootstrap that draws seeds anew within each game (stratified), so games are never traded for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cluster.commands.report.statistics import Estimate, interquartile_mean

RESAMPLES = 2000
CONFIDENCE = 0.95

PerGame = Sequence[np.ndarray]
"""Human-normalised scores of each game's runs."""


def pooled_iqm(games: PerGame) -> float:
    """Mean of the middle half of all runs of all games."""
    return float(interquartile_mean(np.concatenate(games)))


def median_of_games(games: PerGame) -> float:
    """Median over games of the mean over runs."""
    return float(np.median([scores.mean() for scores in games]))


def mean_of_games(games: PerGame) -> float:
    """Mean over games of the mean over runs."""
    return float(np.mean([scores.mean() for scores in games]))


def mean_capped(games: PerGame) -> float:
    """Mean over games of scores clipped to [0, 1]: how near human level on all of them (Badia et al. 2020)."""
    return float(np.mean([np.clip(scores, 0, 1).mean() for scores in games]))


STATISTICS: Mapping[str, Callable[[PerGame], float]] = {
    "IQM": pooled_iqm,
    "median": median_of_games,
    "mean": mean_of_games,
    "capped mean": mean_capped,
}


def estimate(games: PerGame, statistic: Callable[[PerGame], float], resamples: int = RESAMPLES) -> Estimate:
    """``statistic`` of ``games`` with its stratified bootstrap interval, from the means of the games.

    One run per game gives equal ends. The draws are the same at every call.
    """
    rng = np.random.default_rng(0)
    drawn = [
        statistic([scores[rng.integers(len(scores), size=len(scores))] for scores in games]) for _ in range(resamples)
    ]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(statistic(games), float(low), float(high), [float(scores.mean()) for scores in games])
