"""One learner: Retrace updates of both Q-networks, then embedding and RND training, on batches it is handed.

Agent57 section 3 and appendix. The learner knows nothing of processes or replay: `update` takes a
`SequenceBatch` and returns priorities and statistics; `weights` is what actors pull. Called by the learner
process (`cluster/on_ray/remotes.py`) or inline by the serial mode.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from agent57.config import AgentConfig, require
from agent57.family import PolicyFamily
from agent57.losses import QLosses, embedding_loss, last_transitions, q_losses, rnd_loss
from agent57.networks import Agent57Networks, flatten_weights, load_flat_weights
from agent57.ranges import Range, check_ranges
from agent57.structures import EXTRINSIC, INTRINSIC, EnvironmentSpec, SequenceBatch
from agent57.torsos import resolve_torso_dtype, set_torso_dtype
from learner.data_parallel import Ranks, broadcast_tensors, common_moments, sum_gradients

NET_NAMES = ("extrinsic", "intrinsic")
SCALE_DECAY = 0.999
"""Decay per update of the running scales behind ``normalize_td`` and ``normalize_intrinsic``."""


@dataclass(frozen=True)
class LearnerConfig:
    """Optimisation constants (Agent57 appendix)."""

    batch_size: Annotated[int, Range(at_least=1, at_most=65_536)] = 64
    """Sequences per update."""
    learning_rate: Annotated[float, Range(at_least=0, at_most=1)] = 1e-4
    """Adam learning rate of both Q-networks."""
    rnd_learning_rate: Annotated[float, Range(at_least=0, at_most=1)] = 5e-4
    """Adam learning rate of the RND predictor."""
    embedding_learning_rate: Annotated[float, Range(at_least=0, at_most=1)] = 5e-4
    """Adam learning rate of the embedding and its classifier."""
    embedding_l2: Annotated[float, Range(at_least=0, at_most=1000)] = 1e-5
    """L2 penalty on the embedding's weights."""
    adam_epsilon: Annotated[float, Range(above=0, at_most=1)] = 1e-4
    """Adam epsilon, of all optimizers."""
    max_grad_norm: Annotated[float, Range(above=0, at_most=1e9)] = 40.0
    """Gradient norm clip, of each network by itself; in units of sigma where loss.normalize-td divides errors by it."""
    target_period: Annotated[int, Range(at_least=1, at_most=10**9)] = 1500
    """Updates between two hard copies into the target networks."""
    auxiliary_steps: Annotated[int, Range(at_least=1, at_most=10_000)] = 5
    """Last transitions of each sequence on which embedding and RND predictor are trained."""
    torso_dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic of the torsos (autocast; weights stay float32). auto: bfloat16 where the device has instructions for
    it."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes the GPU if there is one."""
    max_bad_updates: Annotated[int, Range(at_least=1, at_most=10**6)] = 20
    """Updates in a row with a NaN or an infinity after which the run stops; a single one is skipped."""

    def __post_init__(self) -> None:
        check_ranges(self, "learner")
        require(
            re.fullmatch(r"auto|cpu|cuda(:\d{1,4})?", self.device, re.ASCII) is not None,
            f"--learner.device is auto, cpu, cuda or cuda:N (got {self.device!r})",
        )


class TrainingDiverged(RuntimeError):
    """Losses or gradients stayed NaN or infinite; the message names the first bad quantity."""


@dataclass
class UpdateResult:
    """New ``priorities`` float32 [B] of the batch, and ``metrics``, one number per tag.

    A skipped update (NaN or infinity) has ``priorities`` None.
    """

    priorities: np.ndarray | None
    metrics: dict[str, float]


def resolve_device(device: str) -> torch.device:
    """The torch device that ``learner.device`` names."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


class Learner:
    """Owns online and target networks, three kinds of optimizers, running scales and the update counter.

    With ``ranks`` it is one of several that make the same updates, each from its part of every batch
    (`data_parallel.py`); all must then call `update` and `synchronise` together. Not thread-safe; all methods run
    on the thread that created it.
    """

    def __init__(
        self, agent: AgentConfig, config: LearnerConfig, spec: EnvironmentSpec, seed: int, ranks: Ranks | None = None
    ) -> None:
        self.agent, self.config = agent, config
        self.ranks = ranks or Ranks()
        self.device = resolve_device(config.device)
        family = PolicyFamily(**vars(agent.family))
        self.betas = torch.tensor(family.betas, dtype=torch.float32, device=self.device)
        self.discounts = torch.tensor(family.discounts, dtype=torch.float32, device=self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = Agent57Networks(spec, agent.family.num_policies, agent.network)
        set_torso_dtype(networks, resolve_torso_dtype(config.torso_dtype, self.device))
        self.networks = networks.to(self.device)
        self.targets = nn.ModuleList([copy.deepcopy(network) for network in networks.q_networks])
        self.targets.requires_grad_(False)
        self.updates = 0
        self.bad_updates = 0
        self._bad_in_a_row = 0
        self._first_bad = ""
        self._scale_moments = torch.zeros(3, 2, device=self.device)  # (td_e, td_i, r_i) x (mean, mean square)
        self._scale_weight = 0.0
        self._trained: dict[str, nn.Module] = dict(zip(NET_NAMES, networks.q_networks, strict=False))
        if agent.intrinsic.novelty != "none":
            if agent.intrinsic.embedding == "learned":
                self._trained["embedding"] = networks.embedding
            self._trained["rnd"] = networks.rnd.predictor
        if "embedding" not in self._trained:
            networks.embedding.requires_grad_(False)
        self._optimizers = {name: self._adam(name, module) for name, module in self._trained.items()}

    def _adam(self, name: str, module: nn.Module) -> torch.optim.Adam:
        rates = {"embedding": self.config.embedding_learning_rate, "rnd": self.config.rnd_learning_rate}
        return torch.optim.Adam(
            module.parameters(),
            lr=rates.get(name, self.config.learning_rate),
            eps=self.config.adam_epsilon,
            fused=True,
            weight_decay=self.config.embedding_l2 if name == "embedding" else 0.0,
        )

    def update(self, batch: SequenceBatch) -> UpdateResult:
        """One update of all networks from ``batch`` (numpy or torch): of several ranks' whole batch, this one's part.

        Metrics are those of the whole batch, priorities those of the part. Raises TrainingDiverged after
        ``max_bad_updates`` updates in a row that had to be skipped.
        """
        batch = batch.to_torch(self.device)
        networks = self.networks
        result = q_losses(
            networks.q_networks,
            tuple(self.targets),
            batch,
            self.betas,
            self.discounts,
            self.agent.loss,
            networks.td_scale,
            networks.intrinsic_scale,
        )
        novelty: dict[str, Tensor] = {}
        arrived = batch.observations[:0, 0]
        if "rnd" in self._trained:
            t, b = last_transitions(batch.mask, self.config.auxiliary_steps)
            observations, arrived = batch.observations[t, b], batch.observations[t + 1, b]
            embedding, accuracy = embedding_loss(networks.embedding, observations, arrived, batch.actions[t, b])
            novelty = {
                "embedding_loss": embedding,
                "embedding_accuracy": accuracy,
                "rnd_error": rnd_loss(networks.rnd, arrived),
            }

        shares = _Shares.of(batch, result, len(arrived), self.ranks)
        loss = shares.sequences * result.losses.sum()
        if novelty:
            loss = loss + shares.auxiliary * (novelty["embedding_loss"] + novelty["rnd_error"])
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        sum_gradients((p for module in self._trained.values() for p in module.parameters()), self.ranks)
        norms = self._clip_gradients()
        metrics = self._metrics(result, novelty, norms, shares)
        if not self._all_finite(metrics):
            return UpdateResult(None, {"learner/bad_updates": float(self.bad_updates)})

        for optimizer in self._optimizers.values():
            optimizer.step()
        # Only now: a batch that had to be skipped must not leave its NaN in the moments.
        if novelty:
            self._observe(arrived)
            networks.embedding.normalizer.load_state_dict(networks.rnd.normalizer.state_dict())
        self._update_scales(result, batch, shares)
        self.updates += 1
        if self.updates % self.config.target_period == 0:
            self.copy_targets()
        return UpdateResult(result.priorities.cpu().numpy(), metrics)

    def copy_targets(self) -> None:
        """Hard copy of both online Q-networks into the target networks."""
        for target, online in zip(self.targets, self.networks.q_networks, strict=True):
            target.load_state_dict(online.state_dict())

    def weights(self) -> np.ndarray:
        """Everything that actors need, as one float32 vector (see `flatten_weights`)."""
        return flatten_weights(self.networks)

    def load_weights(self, updates: int, vector: np.ndarray) -> None:
        """Go on from published weights, at ``updates``: targets become copies, optimizers stay as they are."""
        load_flat_weights(self.networks, vector)
        self.copy_targets()
        self.updates = updates

    def _clip_gradients(self) -> dict[str, Tensor]:
        """Gradient norms before they are clipped, in the clip's units.

        The gradient of 1/2 (td / sigma)^2 is td / sigma times that of Q / sigma: where TD errors are normalised, what
        is clipped is sigma times the gradient. While no reward comes sigma sinks to a hundredth, and a clip of the bare
        gradient would all but discard the first reward.
        """
        norms = {}
        for name, module in self._trained.items():
            sigma = self.networks.td_scale[NET_NAMES.index(name)] if name in NET_NAMES else 1.0
            gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
            norm = nn.utils.get_total_norm(gradients)
            nn.utils.clip_grads_with_norm_(module.parameters(), self.config.max_grad_norm / sigma, norm)
            norms[name] = norm * sigma
        return norms

    def _metrics(
        self, result: QLosses, novelty: dict[str, Tensor], norms: dict[str, Tensor], shares: _Shares
    ) -> dict[str, float]:
        values: dict[str, Tensor] = {"learner/trace_coefficient": result.mean_trace}
        for net, name in enumerate(NET_NAMES[: len(self.targets)]):
            td = result.td_errors[net]
            values[f"learner/{name}_loss"] = result.losses[net]
            values[f"learner/{name}_mean_q"] = result.mean_q[net]
            values[f"learner/{name}_max_abs_q"] = result.max_abs_q[net]
            values[f"learner/{name}_abs_td"] = (td.abs() * result.mask).sum() / result.mask.sum().clamp(min=1)
            values[f"learner/{name}_grad_norm"] = norms[name]
            values[f"learner/{name}_clipped"] = norms[name] > self.config.max_grad_norm
        values |= {f"learner/{name}": value for name, value in novelty.items()}
        values |= {f"learner/{name}_grad_norm": norms[name] for name in ("embedding", "rnd") if name in norms}
        values |= {
            "learner/td_scale_extrinsic": self.networks.td_scale[EXTRINSIC],
            "learner/td_scale_intrinsic": self.networks.td_scale[INTRINSIC],
            "learner/intrinsic_scale": self.networks.intrinsic_scale,
        }
        # One transfer for all numbers: each .item() on a GPU would wait for it by itself.
        numbers = torch.stack([value.detach().float() for value in values.values()])
        if self.ranks.count > 1:
            numbers = self._over_ranks(list(values), numbers, shares)
        return dict(zip(values, numbers.tolist(), strict=True))

    def _over_ranks(self, names: list[str], numbers: Tensor, shares: _Shares) -> Tensor:
        """The metrics of the whole batch from each rank's own; a NaN or an infinity of one rank is one of all."""

        def share(name: str) -> Tensor:
            if name in ("learner/embedding_loss", "learner/embedding_accuracy", "learner/rnd_error"):
                return shares.auxiliary
            per_step = name.endswith(("_mean_q", "_abs_td", "/trace_coefficient"))
            return shares.valid if per_step else shares.sequences

        means = self.ranks.sum_(numbers * torch.stack([share(name) for name in names]))
        maxima = self.ranks.max_(numbers.clone())
        is_maximum = torch.tensor([name.endswith("_max_abs_q") for name in names], device=self.device)
        return torch.where(is_maximum & means.isfinite(), maxima, means)

    def _all_finite(self, metrics: dict[str, float]) -> bool:
        bad = [name for name, value in metrics.items() if not np.isfinite(value)]
        if not bad:
            self._bad_in_a_row = 0
            return True
        self.bad_updates += 1
        self._bad_in_a_row += 1
        if self._bad_in_a_row == 1:
            self._first_bad = f"{bad[0]} = {metrics[bad[0]]} at update {self.updates}"
        if self._bad_in_a_row >= self.config.max_bad_updates:
            raise TrainingDiverged(
                f"{self._bad_in_a_row} updates in a row had a NaN or an infinity; it began with {self._first_bad}"
            )
        return False

    def _observe(self, arrived: Tensor) -> None:
        normalizer = self.networks.rnd.normalizer
        if self.ranks.count == 1:
            normalizer.observe(arrived)
        else:
            normalizer.absorb(*common_moments(arrived, self.ranks))

    @torch.no_grad()
    def _update_scales(self, result: QLosses, batch: SequenceBatch, shares: _Shares) -> None:
        loss = self.agent.loss
        if not (loss.normalize_td or loss.normalize_intrinsic):
            return
        raw_td = result.td_errors * self.networks.td_scale.view(2, 1, 1)
        samples = torch.cat([raw_td, batch.intrinsic_rewards[None, 1:]])
        weight = shares.valid * (result.mask / result.mask.sum().clamp(min=1))
        means = torch.stack([(samples * weight).sum((1, 2)), (samples.square() * weight).sum((1, 2))], 1)
        means = self.ranks.sum_(means)
        # Squares may overflow where errors do not; the moments would keep an infinity for ever.
        so_far = self._scale_moments / max(self._scale_weight, 1e-12)
        means = torch.where(means.isfinite().all(1, keepdim=True), means, so_far)
        self._scale_moments.lerp_(means, 1 - SCALE_DECAY)
        self._scale_weight += (1 - SCALE_DECAY) * (1 - self._scale_weight)
        mean, mean_square = (self._scale_moments / self._scale_weight).unbind(1)
        std = (mean_square - mean.square()).clamp(min=0).sqrt().clamp(min=1e-4)
        if loss.normalize_td:
            self.networks.td_scale.copy_(std[:2])
        if loss.normalize_intrinsic:
            self.networks.intrinsic_scale.copy_(std[2])

    def synchronise(self) -> None:
        """Give every rank what rank 0 has; to be called once all have been created or restored alike."""
        if self.ranks.count == 1:
            return
        moments_of = [
            value
            for optimizer in self._optimizers.values()
            for held in optimizer.state.values()
            for value in held.values()
        ]
        modules = [*self.networks.state_dict().values(), *self.targets.state_dict().values()]
        broadcast_tensors([*modules, *moments_of, self._scale_moments], self.ranks, self.device)
        counters = torch.tensor([self.updates, self.bad_updates, self._scale_weight], dtype=torch.float64)
        broadcast_tensors([counters], self.ranks, self.device)
        self.updates, self.bad_updates = int(counters[0]), int(counters[1])
        self._scale_weight = float(counters[2])

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on, apart from the batch."""
        return {
            "networks": self.networks.state_dict(),
            "targets": self.targets.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
            "scale_moments": self._scale_moments,
            "scale_weight": self._scale_weight,
            "updates": self.updates,
            "bad_updates": self.bad_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly from ``state``. Raises RuntimeError if it fits other networks."""
        self.networks.load_state_dict(state["networks"])
        self.targets.load_state_dict(state["targets"])
        for name, optimizer in self._optimizers.items():
            _load_moments(optimizer, state["optimizers"][name])
            _match_layouts(optimizer)
        self._scale_moments.copy_(state["scale_moments"])
        self._scale_weight = state["scale_weight"]
        self.updates = state["updates"]
        self.bad_updates = state["bad_updates"]


def _load_moments(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Adam's moments out of ``saved``; rates and constants stay those of the config, which a resume may change.

    Raises RuntimeError unless they have the shapes of the parameters: fused kernels write without looking.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, held in saved["state"].items():
        shape = parameters[number].shape
        if {name: value.shape for name, value in held.items()} != {"step": (), "exp_avg": shape, "exp_avg_sq": shape}:
            raise RuntimeError(f"the optimizer's moments of parameter {number} do not have its shape")
    optimizer.load_state_dict({"state": saved["state"], "param_groups": optimizer.state_dict()["param_groups"]})


@dataclass
class _Shares:
    """This rank's share, [] in (0, 1], of the whole batch's sequences, auxiliary transitions and valid steps."""

    sequences: Tensor
    auxiliary: Tensor
    valid: Tensor

    @classmethod
    def of(cls, batch: SequenceBatch, result: QLosses, auxiliary: int, ranks: Ranks) -> _Shares:
        mine = torch.stack(
            [
                result.losses.new_tensor(batch.mask.shape[1]),
                result.losses.new_tensor(auxiliary),
                result.mask.sum().to(result.losses.dtype),
            ]
        )
        shares = mine / ranks.sum_(mine.clone()).clamp(min=1)
        # By itself a rank has it all, even where burn-in leaves no valid step.
        return cls(*(shares if ranks.count > 1 else torch.ones_like(shares)))


def _match_layouts(optimizer: torch.optim.Optimizer) -> None:
    """Lay Adam's moments out as their parameters are.

    Files give plain layouts, but the fused kernel pairs raw memory, and convolution weights are channels-last.
    """
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(value)
