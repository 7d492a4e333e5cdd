"""Visits counted over all episodes in one memory of weighted atoms. RECODE, Saade et al. 2023."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from agent57.config import AgentConfig
from agent57.novelty.nearest import round_up, smallest
from agent57.state import Stateful


class CountMemory(Stateful):
    """Atoms f_l, averages of embeddings, with counts c_l; many lanes share it, and no episode's end empties it.

    An embedding e earns r = 1 / (sqrt(N(e)) + c), N(e) = sum_l (1 + c_l) K(f_l, e), where K is an inverse kernel of the
    squared distance over d_m^2, the running mean of squared distances to nearest atoms, and 0 from d_m^2 on. Then e is
    averaged into its nearest atom, or, if it is far from all, now and then becomes an atom; a full memory gives up
    another one for it, rather one of few visits, whose count goes to its nearest. So the memory survives an embedding
    that drifts: atoms that are still visited move along.
    """

    STATE: ClassVar = ("_origin", "_distance_sum", "_distance_weight", "_draws")
    _GROUPS = 32

    def __init__(
        self,
        num_atoms: int,
        embedding_dim: int,
        num_neighbours: int = 10,
        kernel_epsilon: float = 1e-4,
        pseudo_count: float = 1e-3,
        count_decay: float = 0.99999,
        distance_decay: float = 0.999,
        tolerance: float = 0.05,
        insertion: float = 0.5,
        seed: int = 0,
    ) -> None:
        """``tolerance``: kappa, an embedding further than this times d_m^2 from all atoms may become one, with
        probability ``insertion`` (eta). Decays are per lane step. ``seed`` of what is inserted and given up."""
        self.num_neighbours, self.kernel_epsilon, self.pseudo_count = num_neighbours, kernel_epsilon, pseudo_count
        self.count_decay, self.distance_decay = count_decay, distance_decay
        self.tolerance, self.insertion = tolerance, insertion
        # [D, room]: with the atoms along the last axis, products with all of them take a quarter of the time.
        room = round_up(num_atoms, self._GROUPS)
        self._held = torch.zeros(embedding_dim, room)
        self._squared_norms = torch.full((room,), torch.inf)
        self._counts = np.zeros(num_atoms)
        self._size = 0
        # Atoms are kept relative to the first one: far from zero, float32 would lose small distances.
        self._origin = np.zeros(embedding_dim, np.float32)
        # Numerator and denominator of the bias-corrected running mean d_m^2.
        self._distance_sum = self._distance_weight = 0.0
        self._draws = np.random.default_rng(seed)

    @classmethod
    def of(cls, agent: AgentConfig, seed: int = 0) -> CountMemory:
        """The memory that ``agent.intrinsic`` describes."""
        config = agent.intrinsic
        return cls(
            config.atoms,
            agent.network.embedding_size,
            num_neighbours=config.num_neighbours,
            kernel_epsilon=config.kernel_epsilon,
            pseudo_count=config.pseudo_count,
            count_decay=config.count_decay,
            distance_decay=config.distance_decay,
            tolerance=config.atom_tolerance,
            insertion=config.atom_insertion,
            seed=seed,
        )

    def state_dict(self) -> dict[str, Any]:
        """All of it, of the atoms that there are."""
        return super().state_dict() | {"held": self._held[:, : self._size].clone(), "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly from ``state``; of more atoms than there is room for, those of the most visits stay."""
        super().load_state_dict(state)
        held, counts = np.asarray(state["held"]), np.asarray(state["counts"])
        if len(counts) > len(self._counts):
            most = np.sort(np.argsort(counts)[-len(self._counts) :])
            held, counts = held[:, most], counts[most]
        self._size = len(counts)
        self._squared_norms.fill_(torch.inf)
        self._place(np.arange(self._size), held)
        self._counts[: self._size] = counts

    @property
    def size(self) -> int:
        """Atoms that there are."""
        return self._size

    @property
    def atoms(self) -> np.ndarray:
        """f_l, float32 [n, D], of the n <= num_atoms that there are."""
        return self._held[:, : self._size].T.numpy() + self._origin

    @property
    def counts(self) -> np.ndarray:
        """c_l, float64 [n]."""
        return self._counts[: self._size].copy()

    @property
    def mean_distance(self) -> float:
        """d_m^2; 0 before there is one."""
        return self._distance_sum / self._distance_weight if self._distance_weight > 0 else 0.0

    def bonus(self, embeddings: np.ndarray) -> np.ndarray:
        """r of embeddings [L, D], float32 [L]; all are looked up in the memory as it was, then inserted.

        Embeddings that are not finite earn 0 and are not inserted.
        """
        rewards = np.zeros(len(embeddings), np.float32)
        fine = np.isfinite(embeddings).all(1)
        if not fine.any():
            return rewards
        new = embeddings[fine]
        if self._size == 0:
            self._origin = new[0].copy()
            rewards[fine] = 1 / self.pseudo_count
            self._insert(new[:1] - self._origin)
            return rewards
        relative = torch.from_numpy(new - self._origin)
        own = relative.square().sum(1, keepdim=True)
        # Squared distances but for the embeddings' own squares, which change no order.
        scores = self._scores(relative)
        nearest, indices = smallest(scores, min(self.num_neighbours, self._size), self._GROUPS)
        nearest = nearest.add_(own).clamp_(min=0)
        first = nearest.argmin(1, keepdim=True)
        # The first embeddings have no scale but their own.
        scale = self.mean_distance or float(nearest.mean())
        rewards[fine] = 1 / (np.sqrt(self._visits(scores, own, scale)) + self.pseudo_count)
        self._counts[: self._size] *= self.count_decay ** len(new)
        new, where = relative.numpy(), indices.gather(1, first)[:, 0].numpy()
        self._follow_distances(nearest.mean(1).numpy())
        far = nearest.gather(1, first)[:, 0].numpy() > self.tolerance * self.mean_distance
        far &= self._draws.random(len(new)) < self.insertion
        self._average(new[~far], where[~far])
        if far.any():
            self._insert(new[far])
        return rewards

    def _visits(self, scores: Tensor, own: Tensor, scale: float) -> np.ndarray:
        """N [L], from `_scores` [L, room] and the embeddings' own squares [L, 1]."""
        # Where all that was ever seen is one point, what lies on it was seen as often as all of it.
        near = scores <= -own if scale <= 0 else scores < scale - own
        # Few atoms are within d_m of an embedding; numpy finds them sooner than torch.
        places = np.flatnonzero(near.numpy())
        lanes, atoms = np.divmod(places, scores.shape[1])
        squared = (scores.numpy().ravel()[places] + own.numpy()[lanes, 0]).clip(0)
        kernel = self.kernel_epsilon / (self.kernel_epsilon + (squared / scale if scale > 0 else 0 * squared))
        return np.bincount(lanes, (1 + self._counts[atoms]) * kernel, len(scores))

    def _follow_distances(self, means: np.ndarray) -> None:
        """Take the mean squared distances of each lane to its nearest atoms [L] into d_m^2."""
        keep = self.distance_decay ** len(means)
        self._distance_sum = keep * self._distance_sum + (1 - keep) * float(means.mean())
        self._distance_weight = keep * self._distance_weight + (1 - keep)

    def _average(self, new: np.ndarray, where: np.ndarray) -> None:
        """Move the atoms ``where`` [M] towards the embeddings ``new`` [M, D] that were nearest to them."""
        held = self._held.numpy()
        visited, inverse, times = np.unique(where, return_inverse=True, return_counts=True)
        sums = np.zeros((len(visited), len(held)), np.float32)
        np.add.at(sums, inverse, new)
        before = self._counts[visited]
        self._place(visited, (before * held[:, visited] + sums.T) / (before + times))
        self._counts[visited] += times

    def _insert(self, new: np.ndarray) -> None:
        """Make atoms of the embeddings ``new`` [M, D], in place of others once the memory is full."""
        capacity = len(self._counts)
        new = new[:capacity]
        room = min(len(new), capacity - self._size)
        places = np.arange(self._size, self._size + room)
        if room < len(new):
            places = np.concatenate([places, self._give_up(len(new) - room)])
        self._place(places, new.T)
        self._counts[places] = 1.0
        self._size += room

    def _place(self, places: np.ndarray, atoms: np.ndarray) -> None:
        """Put ``atoms`` [D, M] where they belong."""
        self._held.numpy()[:, places] = atoms
        self._squared_norms.numpy()[places] = np.square(self._held.numpy()[:, places]).sum(0)

    def _give_up(self, count: int) -> np.ndarray:
        """Choose ``count`` atoms with probabilities in proportion to 1 / c^2; their counts go to their nearest."""
        counts = self._counts[: self._size]
        # Counts decay towards 0; below a millionth of the largest they are as good as that, and no weight underflows.
        counts = np.maximum(counts, max(1e-6 * counts.max(), 1e-300))
        weights = (counts.min() / counts) ** 2
        chosen = self._draws.choice(self._size, count, replace=False, p=weights / weights.sum())
        if count < self._size:
            scores = self._scores(self._held[:, chosen].T)
            scores[:, chosen] = torch.inf
            np.add.at(self._counts, scores.argmin(1).numpy(), self._counts[chosen])
        return chosen

    def _scores(self, embeddings: Tensor) -> Tensor:
        """|f|^2 - 2 e f of embeddings [L, D] and atoms, [L, room]; infinite where there is no atom."""
        room = round_up(self._size, self._GROUPS)
        return torch.addmm(self._squared_norms[:room], embeddings, self._held[:, :room], alpha=-2)
