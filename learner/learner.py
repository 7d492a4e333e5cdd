"""One learner: Retrace updates of both Q-networks, then embedding and RND training, on batches it is handed.

Agent57 section 3 and appendix. The learner knows nothing of processes or replay: `update` takes a
`SequenceBatch` and returns priorities and statistics; `weights` is what actors pull.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agent57.config import AgentConfig
from agent57.errors import SequenceErrors
from agent57.kinds import kind_of
from agent57.networks import ObservationNormalizer, flatten_weights, load_flat_weights, moments
from agent57.novelty import make_networks, novelty_of
from agent57.scales import RunningScales
from agent57.structures import EnvironmentSpec, SequenceBatch
from agent57.terms import TERMS, LossTerm
from agent57.terms.term import Figure, Over, Update, last_transitions
from agent57.torsos import resolve_torso_dtype, set_torso_dtype
from learner.config import LearnerConfig
from learner.data_parallel import GradientSum, Ranks, broadcast_tensors
from learner.graph import CapturedStep
from learner.optimizers import load_moments, make_optimizer, skip_where
from learner.updates import Inputs, Outputs, StartedUpdate, TrainingDiverged, UpdateResult


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
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = config.matrix_precision == "tf32"
            torch.backends.cudnn.allow_tf32 = config.matrix_precision == "tf32"
        self._kind = kind_of(agent)
        self.betas, self.discounts = self._kind.betas.to(self.device), self._kind.discounts.to(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._novelty = novelty_of(agent, spec)
            networks = make_networks(agent, spec)
        set_torso_dtype(networks, resolve_torso_dtype(config.torso_dtype, self.device))
        self.networks = networks.to(self.device)
        self._target_networks = tuple(copy.deepcopy(network) for network in networks.q_networks)
        self.targets = nn.ModuleList(self._target_networks).requires_grad_(False)
        self.updates = 0
        self.bad_updates = 0
        self._bad_in_a_row = 0
        self._first_bad = ""
        self._seed, self._draws = seed, torch.Generator(self.device)
        self._running_scales = RunningScales(self.networks.scales)
        self._terms: tuple[LossTerm, ...] = (*TERMS, *self._novelty.terms)
        self._trained: dict[str, nn.Module] = dict(zip(self._kind.names, networks.q_networks, strict=True))
        self._trained |= self._novelty.trained(networks)
        self._parameters = {name: list(module.parameters()) for name, module in self._trained.items()}
        trained = {id(parameter) for parameters in self._parameters.values() for parameter in parameters}
        for parameter in networks.parameters():
            parameter.requires_grad_(id(parameter) in trained and parameter.requires_grad)
        self._gradient_sum = GradientSum(itertools.chain(*self._parameters.values()), self.ranks)
        self._optimizers = {
            name: make_optimizer(name, parameters, config, name in self._kind.names)
            for name, parameters in self._parameters.items()
        }
        self._step = self._new_step()

    def update(self, batch: SequenceBatch[Any], importance: np.ndarray | None = None) -> UpdateResult:
        """One update of all networks from ``batch`` (numpy or torch): of several ranks' whole batch, this one's part.

        ``importance`` [B]: how much each sequence counts in the loss of the Q-networks, 1 for the one that counts most
        in the whole batch (Schaul et al. 2016); the numbers need only be in proportion. None: all alike.

        Metrics are those of the whole batch, priorities those of the part. Raises TrainingDiverged after
        ``max_bad_updates`` updates in a row that had to be skipped.
        """
        return self.finish(self.start(batch, importance))

    def start(self, batch: SequenceBatch[Any], importance: np.ndarray | None = None) -> StartedUpdate:
        """`update`, but for its result: nothing here waits for the device, nor depends on what it computes.

        So a GPU is at work on one update while the next is prepared; updates must be finished in order.
        """
        inputs = Inputs(batch.to_torch(self.device), self._importance(importance), self._branch_draws(batch))
        started = StartedUpdate(self.updates, self._step(inputs))
        self.updates += 1
        if self.updates % self.config.target_period == 0:
            self.copy_targets(started.taken)
        return started

    def _compute(self, inputs: Inputs) -> Outputs:
        """The device's part of an update: always the same operations, on tensors of the same shapes."""
        update = Update(
            networks=self.networks,
            target_networks=self._target_networks,
            batch=inputs.batch,
            transitions=last_transitions(inputs.batch, self.config.auxiliary_steps),
            betas=self.betas,
            discounts=self.discounts,
            config=self.agent.loss,
            sum_over_ranks=self.ranks.sum_,
            importance=inputs.importance,
            draws=inputs.draws,
        )
        term, errors = self._kind.term(update)
        terms = [term, *(term(update) for term in self._terms)]
        shares = _shares(update, errors, self.ranks)
        loss = torch.stack([shares[term.over] * term.loss for term in terms]).sum()
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._gradient_sum.finish()
        figures = {name: figure for term in terms for name, figure in term.figures.items()}
        figures |= self._clip_gradients()
        names, values = self._metrics(figures, shares)
        taken = values.isfinite().all()
        for optimizer in self._optimizers.values():
            skip_where(optimizer, (~taken).float())
            optimizer.step()
        # A batch that has to be skipped must not leave its NaN in the moments either.
        counted = update.transitions.counted & taken
        self._novelty.learned(
            self.networks, update.transitions.next_observations, functools.partial(self._observe, counted)
        )
        if errors.statistics is not None:
            loss_config = self.agent.loss
            which = (loss_config.normalize_td, loss_config.normalize_intrinsic)
            self._running_scales.update(errors.statistics, which, taken)
        return Outputs(names, torch.cat([values, errors.priorities]), taken)

    def finish(self, started: StartedUpdate) -> UpdateResult:
        """The result of `start`, as `update` returns it; waits for the device."""
        metrics, priorities = started.read()
        bad = [name for name, value in metrics.items() if not np.isfinite(value)]
        if not bad:
            self._bad_in_a_row = 0
            return UpdateResult(priorities, metrics)
        self.updates -= 1
        self.bad_updates += 1
        self._bad_in_a_row += 1
        if self._bad_in_a_row == 1:
            self._first_bad = f"{bad[0]} = {metrics[bad[0]]} at update {started.number}"
        if self._bad_in_a_row >= self.config.max_bad_updates:
            raise TrainingDiverged(
                f"{self._bad_in_a_row} updates in a row had a NaN or an infinity; it began with {self._first_bad}"
            )
        return UpdateResult(None, {"learner/bad_updates": float(self.bad_updates)})

    def _branch_draws(self, batch: SequenceBatch[Any]) -> tuple[Tensor | None, ...]:
        """For each Q-network [branches, B], uniform in [0, 1): what its torso leaves out of each sequence.

        The same numbers whenever and wherever this rank makes this update; None for a torso that leaves nothing out.
        """
        branches = [network.torso.branches for network in self.networks.q_networks]
        if not any(branches):
            return (None,) * len(branches)
        seed = np.random.SeedSequence((self._seed, self.updates, self.ranks.rank)).generate_state(1)
        self._draws.manual_seed(int(seed[0]))
        columns = len(batch.policy_index)
        return tuple(
            torch.rand((count, columns), generator=self._draws, device=self.device) if count else None
            for count in branches
        )

    def _new_step(self) -> Callable[[Inputs], Outputs]:
        """The device's part of an update, on a GPU as a CUDA graph that is still to be recorded."""
        # Messages between ranks are left out of graphs.
        captures = self.config.compile == "auto" and self.device.type == "cuda" and self.ranks.count == 1
        return CapturedStep(self._compute) if captures else self._compute

    def _importance(self, importance: np.ndarray | None) -> Tensor | None:
        if importance is None:
            return None
        weights = torch.from_numpy(importance)
        if self.device.type == "cuda":
            # From other memory the copy would wait for the device.
            weights = weights.pin_memory().to(self.device, non_blocking=True)
        return (weights / self.ranks.max_(weights.amax())).float()

    @torch.no_grad()
    def copy_targets(self, wanted: Tensor | None = None) -> None:
        """Hard copy of the online Q-networks into the target networks; none where ``wanted`` [] is False."""
        for target, online in zip(self.targets, self.networks.q_networks, strict=True):
            for held, new in zip(target.state_dict().values(), online.state_dict().values(), strict=True):
                held.copy_(new if wanted is None else torch.where(wanted, new, held))

    def weights(self) -> np.ndarray:
        """Everything that actors need, as one float32 vector (see `flatten_weights`)."""
        return flatten_weights(self.networks)

    def load_weights(self, updates: int, vector: np.ndarray) -> None:
        """Go on from published weights, at ``updates``: targets become copies, optimizers stay as they are."""
        load_flat_weights(self.networks, vector)
        self.copy_targets()
        self.updates = updates

    def _clip_gradients(self) -> dict[str, Figure]:
        """Gradient norms before they are clipped, in the clip's units, and whether those of the Q-networks were.

        The gradient of 1/2 (td / sigma)^2 is td / sigma times that of Q / sigma: where TD errors are normalised, what
        is clipped is sigma times the gradient. While no reward comes sigma sinks to a hundredth, and a clip of the bare
        gradient would all but discard the first reward.
        """
        limit, figures = self.config.max_grad_norm, {}
        for name, parameters in self._parameters.items():
            is_q_network = name in self._kind.names
            sigma = self.networks.scales.of_network(self._kind.names.index(name)) if is_q_network else 1.0
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            norm = nn.utils.get_total_norm(gradients)
            nn.utils.clip_grads_with_norm_(parameters, limit, norm * sigma)
            # All ranks have the same.
            figures[f"{name}_grad_norm"] = Figure(norm * sigma, Over.SEQUENCES)
            if is_q_network:
                figures[f"{name}_clipped"] = Figure(norm * sigma > limit, Over.SEQUENCES)
        return figures

    def _metrics(self, figures: dict[str, Figure], shares: dict[Over, Tensor]) -> tuple[list[str], Tensor]:
        """Tags and values of the figures of the whole batch; a NaN or an infinity of one rank is one of all."""
        numbers = torch.stack([figure.value.detach().float() for figure in figures.values()])
        if self.ranks.count > 1:
            means = self.ranks.sum_(numbers * torch.stack([shares[figure.over] for figure in figures.values()]))
            maxima = self.ranks.max_(numbers.clone())
            each = zip(figures.values(), means, maxima, strict=True)
            numbers = torch.stack([most if figure.largest else mean for figure, mean, most in each])
            numbers = torch.where(means.isfinite(), numbers, means)
        scales = self.networks.scales.by_name()
        names = [f"learner/{name}" for name in (*figures, *scales)]
        return names, torch.cat([numbers, torch.stack(list(scales.values()))])

    def _observe(self, counted: Tensor, normalizer: ObservationNormalizer, arrived: Tensor) -> None:
        normalizer.absorb(*moments(arrived, counted, self.ranks.sum_))

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
        broadcast_tensors([*modules, *moments_of, *self._running_scales.tensors()], self.ranks, self.device)
        counters = torch.tensor([self.updates, self.bad_updates], dtype=torch.float64)
        broadcast_tensors([counters], self.ranks, self.device)
        self.updates, self.bad_updates = int(counters[0]), int(counters[1])

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on, apart from the batch."""
        return {
            "networks": self.networks.state_dict(),
            "targets": self.targets.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
            "scales": self._running_scales.state_dict(),
            "updates": self.updates,
            "bad_updates": self.bad_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly from ``state``. Raises RuntimeError if it fits other networks."""
        self.networks.load_state_dict(state["networks"])
        self.targets.load_state_dict(state["targets"])
        for name, optimizer in self._optimizers.items():
            load_moments(optimizer, state["optimizers"][name])
        self._running_scales.load_state_dict(state["scales"])
        # A graph would go on with the moments that it was recorded with.
        self._step = self._new_step()
        self.updates = state["updates"]
        self.bad_updates = state["bad_updates"]


def _shares(update: Update, errors: SequenceErrors, ranks: Ranks) -> dict[Over, Tensor]:
    """This rank's share, [] in (0, 1], of what means over the whole batch are taken over."""
    dtype = errors.priorities.dtype
    numbers = {
        Over.SEQUENCES: errors.priorities.new_full((), update.batch.mask.shape[1]),
        Over.STEPS: errors.mask.sum().to(dtype),
        Over.TRANSITIONS: update.transitions.counted.sum().to(dtype),
    }
    mine = torch.stack(list(numbers.values()))
    # By itself a rank has it all, even where burn-in leaves no valid step.
    shares = mine / ranks.sum_(mine.clone()).clamp(min=1) if ranks.count > 1 else torch.ones_like(mine)
    return dict(zip(numbers, shares, strict=True))
