"""The update as a graph: it can be traced without a break, and a recorded one is fed and read rightly.

There is no CUDA graph without a GPU: a stand-in replays what was recorded by computing it anew at the same addresses.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from agent57.structures import SequenceBatch
from learner.graph import WARM_UP, CapturedStep
from learner.learner import Learner
from learner.updates import Inputs, Outputs
from tests.learner.test_learner import make_batch, same
from tests.learner.test_no_waiting import CASES, batches_of, learner_of


def inputs_of(learner: Learner, batch: SequenceBatch) -> Inputs:
    weights = np.linspace(0.5, 1.0, len(batch.policy_index))
    return Inputs(batch.to_torch(), learner._importance(weights), learner._branch_draws(batch))


@pytest.mark.parametrize("case", ["images", "MEME", "NFNet"])
def test_a_traced_update_is_the_update(case: str) -> None:
    """The trace is of one batch; it is then run on others, against a learner that was never traced."""
    traced, plain = learner_of(case), learner_of(case)
    example = inputs_of(traced, batches_of(case)[0])
    with unchanged(traced):
        graph = make_fx(lambda *tensors: traced._compute(example.like(list(tensors))).numbers)(*example.tensors())
    assert len(list(graph.graph.nodes)) > 100
    for batch in batches_of(case)[1:]:
        inputs = inputs_of(plain, batch)
        expected = plain._compute(inputs)
        found = graph(*inputs.tensors())
        torch.testing.assert_close(found, expected.numbers, rtol=1e-4, atol=1e-5)
    for (name, one), other in zip(
        traced.networks.state_dict().items(), plain.networks.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)


class StandInGraph:
    """Replays by computing what was recorded, as the device would: same inputs' addresses, same outputs' addresses."""

    recorded: Any = None
    replays = 0

    def replay(self) -> None:
        type(self).replays += 1
        compute, outputs = self.recorded
        new: Outputs = compute()
        outputs.numbers.copy_(new.numbers)
        outputs.taken.copy_(new.taken)


class Recordable(CapturedStep):
    """On a CPU: streams are not needed, and recording computes nothing that lasts."""

    fails = False

    def _warm_up(self, inputs: Inputs) -> Outputs:
        return self._compute(inputs)

    def _record(self, inputs: Inputs) -> None:
        learner: Learner = self._compute.__self__  # type: ignore[attr-defined]
        with unchanged(learner):
            super()._record(inputs)
        if self._graph is not None:
            held = inputs.like(self._inputs)
            self._graph.recorded = (lambda: self._compute(held), self._outputs)  # type: ignore[attr-defined]


@contextmanager
def unchanged(learner: Learner) -> Iterator[None]:
    """Puts every number of ``learner`` back where it was, at the same address."""
    saved = {name: value.clone() for name, value in _state(learner).items()}
    yield
    for name, value in _state(learner).items():
        value.copy_(saved[name])


def _state(learner: Learner) -> dict[str, torch.Tensor]:
    """All tensors that an update changes, by a name each."""
    found: dict[str, torch.Tensor] = {}

    def walk(tree: Any, name: str) -> None:
        if isinstance(tree, torch.Tensor):
            found[name] = tree.detach()
        elif isinstance(tree, dict):
            for key, value in tree.items():
                walk(value, f"{name}.{key}")
        elif isinstance(tree, list | tuple):
            for index, value in enumerate(tree):
                walk(value, f"{name}.{index}")

    walk(learner.state_dict(), "")
    return found


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandInGraph]:
    @contextmanager
    def recording(graph: Any) -> Any:
        if Recordable.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", StandInGraph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    StandInGraph.replays, Recordable.fails = 0, False
    return StandInGraph


@pytest.mark.parametrize("case", ["images", "MEME", "NFNet"])
def test_replayed_updates_are_the_plain_ones(case: str, stand_in: type[StandInGraph]) -> None:
    replayed, plain = learner_of(case), learner_of(case)
    replayed._step = Recordable(replayed._compute)
    for seed in range(8):
        batch = make_batch(seed, CASES[case][0])
        weights = np.linspace(0.2, 1.0, len(batch.policy_index)) * (seed + 1)
        one, other = replayed.update(batch, weights), plain.update(batch, weights)
        assert one.metrics == other.metrics
        np.testing.assert_array_equal(one.priorities, other.priorities)
    assert stand_in.replays == 8 - WARM_UP
    assert same(replayed.state_dict(), plain.state_dict())


def test_results_of_overlapping_replays_are_not_mixed_up(stand_in: type[StandInGraph]) -> None:
    replayed, plain = learner_of("vectors"), learner_of("vectors")
    replayed._step = Recordable(replayed._compute)
    for seed in range(4):
        replayed.update(make_batch(seed)), plain.update(make_batch(seed))
    first, second = replayed.start(make_batch(5)), replayed.start(make_batch(6))
    for started, seed in ((first, 5), (second, 6)):
        assert replayed.finish(started).metrics == plain.update(make_batch(seed)).metrics


def test_a_batch_of_another_size_is_computed_plainly(stand_in: type[StandInGraph]) -> None:
    learner, plain = learner_of("vectors"), learner_of("vectors")
    learner._step = Recordable(learner._compute)
    for seed in range(WARM_UP + 1):
        learner.update(make_batch(seed)), plain.update(make_batch(seed))
    batch = make_batch(9)
    smaller = SequenceBatch(
        **{
            name: value[:, :, :3] if name == "recurrent_state" else value[:3] if value.ndim == 1 else value[:, :3]
            for name, value in vars(batch).items()
        }
    )
    assert learner.update(smaller).metrics == plain.update(smaller).metrics
    assert stand_in.replays == 1
    assert learner.update(batch).metrics == plain.update(batch).metrics
    assert stand_in.replays == 2


def test_what_cannot_be_recorded_is_told_once_and_computed_plainly(stand_in: type[StandInGraph]) -> None:
    learner, plain = learner_of("vectors"), learner_of("vectors")
    learner._step = Recordable(learner._compute)
    Recordable.fails = True
    for seed in range(WARM_UP):
        learner.update(make_batch(seed)), plain.update(make_batch(seed))
    with pytest.warns(UserWarning, match="could not be recorded as a CUDA graph and goes on without one: operation"):
        learner.update(make_batch(7))
    plain.update(make_batch(7))
    assert learner.update(make_batch(8)).metrics == plain.update(make_batch(8)).metrics
    assert stand_in.replays == 0


def test_nothing_is_recorded_on_a_cpu_or_by_several_learners() -> None:
    learner = learner_of("vectors")

    def captures() -> bool:
        return isinstance(learner._new_step(), CapturedStep)

    assert not captures()
    learner.device = torch.device("cuda")
    assert captures()
    learner.ranks.count = 2
    assert not captures()
    learner.ranks.count = 1
    learner.config = dataclasses.replace(learner.config, compile="off")
    assert not captures()


def test_a_graph_is_recorded_anew_once_another_state_was_loaded(stand_in: type[StandInGraph]) -> None:
    learner, plain = learner_of("vectors"), learner_of("vectors")
    learner._new_step = lambda: Recordable(learner._compute)  # type: ignore[method-assign]
    learner._step = learner._new_step()
    saved = copy.deepcopy(learner.state_dict())
    for seed in range(WARM_UP + 2):
        learner.update(make_batch(seed))
    recorded = learner._step
    learner.load_state_dict(saved)
    assert learner._step is not recorded
    for seed in range(WARM_UP + 2):
        assert learner.update(make_batch(seed)).metrics == plain.update(make_batch(seed)).metrics
