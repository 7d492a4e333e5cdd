"""Episodic novelty from a memory of controllable states and its nearest neighbours. NGU section 2 and algorithm 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from agent57.config import AgentConfig
from agent57.novelty.nearest import round_up, smallest
from agent57.structures import Array


class EpisodicMemory:
    """One ring of controllable states per lane, and the bonus that it pays for a new one.

    ``bonus`` looks up, then appends. Memories are separate per lane and last one episode; the moving average
    of neighbour distances, d_m^2, is also per lane but is kept across episodes (``distance_decay`` per step,
    bias-corrected, the newest included), because the embedding's scale drifts by orders of magnitude.
    """

    _CHUNK = 128  # memories begin with room for this many entries, so that those of short episodes lie close together
    _GROUPS = 32  # room comes in multiples of this, for `smallest`
    _SMALL = ("appended", "origins", "distance_sum", "distance_weight")  # the rest of the state

    def __init__(
        self,
        num_lanes: int,
        capacity: int,
        embedding_dim: int,
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
        self._lane_range = np.arange(num_lanes)
        # [L, D, room]: with the entries along the last axis, products with all of them take a quarter of the time.
        self._entries = torch.zeros(num_lanes, embedding_dim, self._room(self._CHUNK))
        self._squared_norms = torch.full((num_lanes, self._entries.shape[2]), torch.inf)
        # What follows is small, and numpy is quicker with small arrays.
        self._appended = np.zeros(num_lanes, np.int64)
        # Entries are kept relative to the episode's first one: far from zero, float32 would lose small distances.
        self._origins = np.zeros((num_lanes, embedding_dim), np.float32)
        # Numerator and denominator of the bias-corrected moving average.
        self._distance_sum = np.zeros(num_lanes)
        self._distance_weight = np.zeros(num_lanes)

    @classmethod
    def of(cls, agent: AgentConfig, num_lanes: int) -> EpisodicMemory:
        """The memory of ``num_lanes`` lanes that ``agent.intrinsic`` describes."""
        config = agent.intrinsic
        return cls(
            num_lanes,
            config.memory_capacity,
            agent.network.embedding_size,
            num_neighbours=config.num_neighbours,
            kernel_epsilon=config.kernel_epsilon,
            cluster_distance=config.cluster_distance,
            pseudo_count=config.pseudo_count,
            max_similarity=config.max_similarity,
            distance_decay=config.distance_decay,
            pad_neighbours=config.young_memory == "padded",
        )

    @property
    def sizes(self) -> np.ndarray:
        """Entries held per lane, int64 [L]."""
        return np.minimum(self._appended, self.capacity)

    @torch.no_grad()
    def bonus(self, embeddings: Array) -> Array:
        """1 / (sqrt(sum_k K(d_k)) + c) per lane, then append; [L, D] -> float32 [L].

        K(d) = eps_k / (d + eps_k), d = max(d_k^2 / d_m^2 - cluster_distance, 0). Pays 0 where the similarity
        exceeds ``max_similarity`` and while a lane holds fewer than k entries (the paper is silent, and the
        bare formula would pay the first steps of every episode a fortune); with ``pad_neighbours`` missing ones count
        as being at the average distance, d_k^2 = d_m^2, instead. Numpy in, numpy out.
        """
        x = np.asarray(embeddings, np.float32)
        first = self._appended == 0
        if first.any():
            self._origins[first] = x[first]
        x = x - self._origins
        ready = self._appended >= (1 if self.pad_neighbours else self.num_neighbours)
        rewards = np.zeros(len(x), np.float32)
        if ready.any():
            distances, held = self._neighbour_distances(x)
            self._average((distances * held).sum(1, dtype=np.float64) / np.maximum(held.sum(1), 1), ready)
            mean_distance = (self._distance_sum / np.maximum(self._distance_weight, 1e-300)).astype(np.float32)
            # An average of 0 means that every distance ever seen was 0: all states are the same one.
            relative = np.where(held, distances / np.maximum(mean_distance, np.float32(1e-30))[:, None], np.float32(1))
            kernel = self._kernel(np.maximum(relative - np.float32(self.cluster_distance), 0))
            # Fewer columns than k: no lane holds more entries yet.
            missing = self.num_neighbours - kernel.shape[1]
            total = kernel.sum(1) + missing * self._kernel(1 - self.cluster_distance)
            similarity = np.sqrt(total) + self.pseudo_count
            paid = ready & (similarity <= self.max_similarity)
            rewards[paid] = 1 / similarity[paid]
        self._append(x)
        return rewards if isinstance(embeddings, np.ndarray) else torch.from_numpy(rewards)

    def reset(self, lanes: Any) -> None:
        """Empty the memories of ``lanes`` (indices or a boolean mask [L]); their d_m^2 stays."""
        lanes = np.asarray(lanes)
        self._appended[lanes] = 0
        self._squared_norms.numpy()[lanes] = np.inf

    def _kernel(self, relative: Any) -> Any:
        return self.kernel_epsilon / (relative + self.kernel_epsilon)

    def _neighbour_distances(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(squared distances to the k nearest entries, which of them exist), [L, k]; found by |e|^2 - 2 e.x.

        Fewer columns while no lane holds k entries.
        """
        queries = torch.from_numpy(x)
        filled = min(int(self._appended.max()), self.capacity)
        room = round_up(filled, self._GROUPS)
        entries = self._entries[:, :, :room]
        scores = torch.baddbmm(self._squared_norms[:, None, :room], queries.unsqueeze(1), entries, alpha=-2).squeeze(1)
        lowest, nearest = smallest(scores, min(self.num_neighbours, filled), self._GROUPS)
        # The product form loses small distances between large vectors to cancellation: measure the winners.
        neighbours = entries.gather(2, nearest.unsqueeze(1).expand(-1, x.shape[1], -1))
        distances = (neighbours - queries.unsqueeze(2)).square().sum(1)
        return distances.numpy(), np.isfinite(lowest.numpy())

    def _average(self, distances: np.ndarray, ready: np.ndarray) -> None:
        # The average outlives its episode: it must not take in what is not finite.
        ready = ready & np.isfinite(distances)
        decay = np.where(ready, self.distance_decay, 1.0)
        self._distance_sum = decay * self._distance_sum + np.where(ready, distances, 0.0)
        self._distance_weight = decay * self._distance_weight + ready

    def _append(self, x: np.ndarray) -> None:
        slots = self._appended % self.capacity
        if int(slots.max()) >= self._entries.shape[2]:
            self._grow()
        self._entries.numpy()[self._lane_range, :, slots] = x
        self._squared_norms.numpy()[self._lane_range, slots] = np.square(x).sum(1)
        self._appended += 1

    def _room(self, wanted: int) -> int:
        return round_up(min(wanted, self.capacity), self._GROUPS)

    def _grow(self) -> None:
        lanes, dim, size = self._entries.shape
        more = self._room(2 * size) - size
        self._entries = torch.cat([self._entries, torch.zeros(lanes, dim, more)], 2)
        self._squared_norms = torch.cat([self._squared_norms, torch.full((lanes, more), torch.inf)], 1)

    def running_average(self) -> dict[str, np.ndarray]:
        """What d_m^2 comes from, each float64 [L]: the part of the state that outlives episodes."""
        return {"distance_sum": self._distance_sum.copy(), "distance_weight": self._distance_weight.copy()}

    def load_running_average(self, average: dict[str, np.ndarray]) -> None:
        """Go on from `running_average`; with another number of lanes each gets the mean over those of ``average``."""
        sums = np.array(average["distance_sum"], np.float64)
        weights = np.array(average["distance_weight"], np.float64)
        if len(sums) != len(self._lane_range):
            seen = weights > 0
            mean = float((sums[seen] / weights[seen]).mean()) if seen.any() else 0.0
            weight = float(weights[seen].mean()) if seen.any() else 0.0
            sums, weights = (np.full(len(self._lane_range), value) for value in (mean * weight, weight))
        self._distance_sum, self._distance_weight = sums, weights

    def state_dict(self) -> dict[str, Tensor]:
        filled = max(int(self.sizes.max(initial=0)), 1)
        return {
            "entries": self._entries[:, :, :filled].transpose(1, 2).contiguous(),
            **{name: torch.from_numpy(getattr(self, f"_{name}").copy()) for name in self._SMALL},
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        saved = state["entries"].transpose(1, 2)
        while self._entries.shape[2] < saved.shape[2]:
            self._grow()
        self._entries.numpy()[:, :, : saved.shape[2]] = saved.numpy()
        for name in self._SMALL:
            setattr(self, f"_{name}", state[name].numpy().copy())
        self._squared_norms = torch.full((len(self._lane_range), self._entries.shape[2]), torch.inf)
        # Summed as in `_append`, in whose order alone every last bit is the same again.
        norms = np.square(saved.transpose(1, 2).numpy()).sum(2)
        present = np.arange(saved.shape[2]) < self.sizes[:, None]
        self._squared_norms.numpy()[:, : saved.shape[2]] = np.where(present, norms, np.inf)
