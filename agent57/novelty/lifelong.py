"""Life-long novelty: RND errors in units of their running mean and standard deviation.

NGU section 2; as a reward of its own Burda et al. 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from agent57.networks import Agent57Networks, ObservationNormalizer, RandomNetworkDistillation
from agent57.novelty.contract import Earned, LaneNovelty, Novelty, Part
from agent57.novelty.moments import RunningMoments
from agent57.terms.rnd import rnd


class LifelongNovelty:
    """alpha = 1 + (err - mean) / std of RND errors, over all lanes of a worker.

    The predictor keeps learning, so a mean over all errors so far lies above today's and leaves alpha at its floor; a
    mean over the newest alone is used to a new kind of state before the predictor is. So there are two, and the lower
    one counts, with its std: the recent mean runs over the last 64th of the steps so far, the lasting one over all of
    them, or over the last eighth while the recent one lies below it. Errors that fall are thus followed at once, and
    errors that rise slowly. The horizons grow with a run, as the time constants do that matter in it, from `FEWEST`
    steps on until the run is ``horizon`` steps old.
    """

    RECENT, FALLING, FEWEST = 1 / 64, 1 / 8, 1000

    def __init__(self, horizon: float = 4_000_000) -> None:
        self.horizon = horizon
        self.count = 0.0
        self.recent, self.lasting = RunningMoments(), RunningMoments()

    def multiplier(self, errors: np.ndarray) -> np.ndarray:
        """alpha before clipping, float32 [L], from mean squared RND errors [L]; these errors count already.

        1 while all errors seen were equal, so that there is no scale yet. Errors that are not finite do not count and
        get 1.
        """
        errors = np.asarray(errors, np.float64)
        # A sum is finite where all its terms are; the terms are looked at only if it is not.
        finite = None if math.isfinite(errors.sum()) else np.isfinite(errors)
        self._count(errors if finite is None else errors[finite])
        moments = self._moments
        if moments.std <= 1e-12:
            return np.ones(len(errors), np.float32)
        alpha = (1 + (errors - moments.mean) / moments.std).astype(np.float32)
        return alpha if finite is None else np.where(finite, alpha, np.float32(1))

    def scaled(self, errors: np.ndarray) -> np.ndarray:
        """errors / std, float32 [L]: life-long novelty as a reward of its own (Burda et al. 2018).

        0 where there is no scale yet or an error is not finite. `multiplier` must have counted these errors.
        """
        std = self._moments.std
        if std <= 1e-12:
            return np.zeros(len(errors), np.float32)
        return np.nan_to_num(np.asarray(errors) / std, posinf=0.0).astype(np.float32)

    @property
    def _moments(self) -> RunningMoments:
        return self.recent if self.recent.mean < self.lasting.mean else self.lasting

    def _count(self, errors: np.ndarray) -> None:
        n = len(errors)
        if n == 0:
            return
        # Sums, since numpy's mean and var take several times as long over the few numbers of a step.
        mean = float(errors.sum()) / n
        shifts = errors - mean
        variance = float(shifts @ shifts) / n
        self.count = min(self.count + n, self.horizon)
        falling = self.recent.mean < self.lasting.mean
        self.recent.add(mean, variance, self._weight(n, self.RECENT))
        self.lasting.add(mean, variance, self._weight(n, self.FALLING if falling else 1.0))

    def _weight(self, n: int, share: float) -> float:
        """That of ``n`` new errors in a mean over a ``share`` of the steps so far, `FEWEST` at least."""
        return min(1.0, n / min(self.count, max(share * self.count, self.FEWEST)))

    def state_dict(self) -> dict[str, float]:
        state = {"count": float(self.count)}
        for name, moments in (("recent", self.recent), ("lasting", self.lasting)):
            state |= {f"{name}_mean": moments.mean, f"{name}_variance": moments.variance}
        return state

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from ``state``, whatever its horizon was."""
        self.count = float(state["count"])
        self.recent, self.lasting = (
            RunningMoments(float(state[f"{name}_mean"]), float(state[f"{name}_variance"]))
            for name in ("recent", "lasting")
        )


def rnd_errors(networks: Agent57Networks, observations: Tensor) -> np.ndarray:
    """RND errors of ``observations``, float32 [L]; NaN while the networks' inputs cannot be normalised yet."""
    if float(networks.rnd.normalizer.count) == 0:
        return np.full(len(observations), np.nan, np.float32)
    return networks.rnd(observations).cpu().numpy()


class Lifelong(Novelty):
    """RND errors over their standard deviation, and nothing episodic (an ablation)."""

    parts = (Part("alpha", around_one=True), Part("rnd_error", "RND error"))
    terms = (rnd,)

    def modules(self) -> dict[str, nn.Module]:
        return {"rnd": RandomNetworkDistillation(self.spec, self.agent.network)}

    def trained(self, networks: Agent57Networks) -> dict[str, nn.Module]:
        return {"rnd": networks.rnd.predictor}

    def learned(
        self, networks: Agent57Networks, arrived: Tensor, observe: Callable[[ObservationNormalizer, Tensor], None]
    ) -> None:
        observe(networks.rnd.normalizer, arrived)

    def lanes(self, networks: Agent57Networks, num_lanes: int) -> LaneNovelty:
        return _LifelongLanes(networks, LifelongNovelty(self.agent.intrinsic.error_horizon))


class _LifelongLanes(LaneNovelty):
    def __init__(self, networks: Agent57Networks, novelty: LifelongNovelty) -> None:
        self._networks, self._novelty = networks, novelty

    def earn(self, observations: Tensor) -> Earned:
        errors = rnd_errors(self._networks, observations)
        if np.isnan(errors).all():
            return Earned(np.zeros(len(errors), np.float32), {"alpha": errors, "rnd_error": errors})
        alpha = self._novelty.multiplier(errors)
        return Earned(self._novelty.scaled(errors), {"alpha": alpha, "rnd_error": errors})

    def running_state(self) -> dict[str, Any]:
        return {"novelty": self._novelty.state_dict()}

    def load_running_state(self, state: dict[str, Any]) -> None:
        self._novelty.load_state_dict(state["novelty"])

    state_dict, load_state_dict = running_state, load_running_state
