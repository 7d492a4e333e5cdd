"""The speed gate's votes: noise of the size that was seen does not fail it, a real slowdown does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from benchmarks.gate import FAILS, MOST, PASSES, judge
from benchmarks.measure import Figure, against

COMMITTED = [
    against("speed", 0.8, "", 1.0, ">= 0.7"),
    against("share", 0.06, "", 1.0, "<= 0.1"),
    Figure("seconds", 3.0, "s"),
]
GATES = 2000


def measured(speed: float, share: float) -> list[Figure]:
    return [against("speed", speed, "", 1.0, ">= 0.7"), against("share", share, "", 1.0, "<= 0.1")]


def steady(speed: float, share: float) -> Callable[[], list[Figure]]:
    return lambda: measured(speed, share)


def test_worse_ratios_are_told_in_either_direction() -> None:
    for speed, share, worse in ((0.61, 0.074, []), (0.59, 0.076, ["speed", "share"]), (2.0, 0.01, [])):
        votes = judge(measured(speed, share), steady(speed, share), COMMITTED)
        assert [sentence.split(":")[0] for sentence in votes.worse()] == worse
        assert votes.compared == 2
    (sentence,) = judge(measured(0.59, 0.06), steady(0.59, 0.06), COMMITTED).worse()
    assert sentence == f"speed: ratios {', '.join(['0.59'] * FAILS)}, was 0.8"


def test_rows_without_a_counterpart_or_a_ratio_do_not_count() -> None:
    rows = [against("new", 0.1, "", 1.0), Figure("seconds", 9.0, "s"), Figure("speed", None, "", where="no GPU here")]
    assert judge(rows, lambda: pytest.fail("nothing to judge"), COMMITTED).compared == 0


def test_only_as_much_is_measured_as_is_needed() -> None:
    for shares, times in (([0.06] * 9, PASSES), ([0.09] + [0.06] * 9, PASSES + 2), ([0.09] * 9, FAILS)):
        values: Iterator[float] = iter(shares)
        used = []

        def measure(values: Iterator[float] = values, used: list[float] = used) -> list[Figure]:
            used.append(next(values))
            return measured(0.8, used[-1])

        judge(measure(), measure, COMMITTED)
        assert len(used) == times
    turns = iter([0.06, 0.09] * MOST)
    votes = judge(measured(0.8, next(turns)), lambda: measured(0.8, next(turns)), COMMITTED)
    assert len(list(turns)) == MOST
    assert votes.worse() == []


def failures(slower: float, wrong: float) -> float:
    """Share of gates that fail if the code is ``slower`` and each side is off by 1.5 with probability ``wrong`` / 2."""
    rng = np.random.default_rng(0)

    def measure() -> list[Figure]:
        # Beside the outliers, everything wavers by some percent.
        off = np.exp(rng.normal(0, 0.04, 2)) * rng.choice(
            [1, 1.5, 1 / 1.5], size=2, p=[1 - wrong, wrong / 2, wrong / 2]
        )
        return measured(0.8 / slower * off[0], 0.06 * slower * off[1])

    return float(np.mean([bool(judge(measure(), measure, COMMITTED).worse()) for _ in range(GATES)]))


def test_noise_fails_less_than_one_gate_in_a_thousand_and_a_slowdown_nearly_all() -> None:
    """A measurement in five is off by half; only one that is worse than it is counts against sound code."""
    assert failures(slower=1.0, wrong=0.2) < 1e-3
    assert failures(slower=1.0, wrong=0.4) < 2e-3
    assert failures(slower=1.5, wrong=0.1) > 0.99
    assert failures(slower=1.5, wrong=0.2) > 0.97


def test_the_odds_in_the_docs() -> None:
    """Gambler's ruin: the chance that wrong votes lead by ``goal`` before right ones lead by ``ruin``."""

    def wins(wrong: float, ruin: int, goal: int) -> float:
        odds = (1 - wrong) / wrong
        return (odds**ruin - 1) / (odds ** (ruin + goal) - 1)

    assert 1 / wins(0.1, PASSES, FAILS) == pytest.approx(5e6, rel=0.1)
    assert 1 / wins(0.2, PASSES, FAILS) == pytest.approx(17_000, rel=0.1)
    assert 1 / wins(0.1, FAILS, PASSES) == pytest.approx(80, rel=0.1)
    assert 1 / wins(0.2, FAILS, PASSES) == pytest.approx(16, rel=0.1)
