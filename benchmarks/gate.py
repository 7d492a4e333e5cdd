"""Whether ratios have become worse than committed ones, by as many measurements as it takes to be certain.

On a shared machine one measurement in five may be off by half, in either direction, and one that was only repeated
once called sound code slow. So measurements vote: each that is worse by more than TOLERANCE counts against its row,
each other one for it, and the row is judged when one side leads. If one in ten is wrong, sound code fails once in five
million times and a slowdown passes once in eighty; if one in five is, once in 17 000 and once in sixteen (the walk of a
gambler who starts PASSES from ruin and FAILS from his goal). Noise that lasts as long as the votes do is none to them:
so only ratios of things that the same resource bounds are compared (`Figure.comparable`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from benchmarks.measure import Figure

TOLERANCE = 0.25
"""How much worse than committed one measurement of a ratio may be."""
PASSES, FAILS = 2, 7
"""By how many measurements one side must lead."""
MOST = 25
"""Measurements of one part after which it is left at what most of them said."""


class Votes:
    """The measurements of rows, each of which has a counterpart among ``committed``."""

    def __init__(self, committed: Iterable[Figure]) -> None:
        self._committed = {row.name: row.ratio for row in committed if row.ratio and row.comparable}
        self._leads: dict[str, int] = {}
        self._seen: dict[str, list[float]] = {}

    def count(self, rows: Iterable[Figure]) -> None:
        """Let one measurement of each row vote; rows that are judged, or not comparable, are passed over."""
        for row in rows:
            if row.ratio is None or row.name not in self._committed or self._judged(row.name):
                continue
            less_is_better = row.target.startswith("<")
            change = row.ratio / self._committed[row.name]
            worse = change > 1 + TOLERANCE if less_is_better else change < 1 - TOLERANCE
            self._leads[row.name] = self._leads.get(row.name, 0) + (1 if worse else -1)
            self._seen.setdefault(row.name, []).append(row.ratio)

    @property
    def open(self) -> list[str]:
        """Names of rows that are not judged yet."""
        return [name for name in self._leads if not self._judged(name)]

    @property
    def compared(self) -> int:
        """How many rows have a counterpart."""
        return len(self._leads)

    def worse(self) -> list[str]:
        """A sentence for each row that most measurements found worse."""
        return [
            f"{name}: ratios {', '.join(f'{ratio:.3g}' for ratio in self._seen[name])}, was {self._committed[name]:.3g}"
            for name, lead in self._leads.items()
            if lead > 0
        ]

    def _judged(self, name: str) -> bool:
        return not -PASSES < self._leads.get(name, 0) < FAILS


def judge(first: list[Figure], measure: Callable[[], list[Figure]], committed: Iterable[Figure]) -> Votes:
    """The votes on one part's rows: its ``first`` measurement, and as many more as are needed."""
    votes = Votes(committed)
    votes.count(first)
    for _ in range(MOST - 1):
        if not votes.open:
            break
        votes.count(measure())
    return votes
