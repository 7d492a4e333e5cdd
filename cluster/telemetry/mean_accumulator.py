"""Averages statistics between two log points; used by the supervisor and inside the processes."""

from __future__ import annotations


class MeanAccumulator:
    """Weighted means of statistics that arrive many times between two writes."""

    def __init__(self) -> None:
        self._totals: dict[str, tuple[float, float]] = {}

    def add(self, name: str, value: float, weight: float = 1) -> None:
        """Count ``value`` with ``weight`` (the number of samples behind it); a weight of 0 leaves no trace."""
        if weight > 0:
            total, weights = self._totals.get(name, (0.0, 0.0))
            self._totals[name] = (total + float(value) * weight, weights + weight)

    def drain(self) -> dict[str, float]:
        """The mean of each name added since the last call; begins anew."""
        means = {name: total / weights for name, (total, weights) in self._totals.items()}
        self._totals.clear()
        return means
