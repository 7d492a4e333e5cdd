"""An update never waits for its device: nothing in it depends on a number that the device computes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from agent57.config import AgentConfig
from agent57.structures import EnvironmentSpec, SequenceBatch
from agent57.torsos.torso import TORSOS
from learner.config import LearnerConfig
from learner.learner import Learner
from tests.learner.test_learner import TRACE_LENGTH, agent_config, make_batch
from tests.loss_oracle import SMALL_IMAGE, VECTOR

TO_THE_HOST = {"_local_scalar_dense", "is_nonzero", "equal", "item"}
"""Operators that hand a number over to Python."""
OF_ANY_SHAPE = {"nonzero", "masked_select", "unique", "_unique2", "unique_dim", "unique_consecutive", "bincount"}
"""Operators whose result has a shape that depends on data."""


class NoWaiting(TorchDispatchMode):
    """Fails on every operator that makes a GPU wait: a number for Python, a shape that depends on data, a copy."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        assert name not in TO_THE_HOST | OF_ANY_SHAPE, f"{name} waits for the device"
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            masks = [index for index in args[1] if index is not None and index.dtype == torch.bool]
            assert not masks, "an index that is a mask waits for the device"
        assert name != "repeat_interleave" or not isinstance(args[-1], torch.Tensor), "repeats as a tensor wait"
        return func(*args, **(kwargs or {}))


MEME: dict[str, Any] = {
    "trace": "soft_watkins", "bootstrap": "online", "trust_region": 1.0, "normalize_td": True, "td_scale": "policy",
}  # fmt: skip
CASES: dict[str, tuple[EnvironmentSpec, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "vectors": (VECTOR, {}, {}, {}),
    "images": (SMALL_IMAGE, {"normalize_td": True, "normalize_intrinsic": True}, {}, {}),
    "Peng's trace": (VECTOR, {"trace": "peng"}, {}, {}),
    "one network, linear mix": (VECTOR, {"mix": "linear"}, {"kind": "single"}, {}),
    "MEME": (VECTOR, MEME, {"kind": "shared", "policy_head": True}, {"optimizer": "adamw"}),
    "MEME on two networks": (SMALL_IMAGE, MEME, {}, {}),
    "NFNet": (SMALL_IMAGE, MEME, {"kind": "shared", "torso": "nfnet", "nfnet_filters": (4, 4, 4, 4)}, {}),
}
NOVELTIES = ("both", "episodic", "lifelong", "recode", "none")


def learner_of(case: str, novelty: str = "both") -> Learner:
    spec, loss, network, learner = CASES[case]
    agent = agent_config(**loss)
    agent = dataclasses.replace(
        agent,
        network=dataclasses.replace(agent.network, **network),
        intrinsic=dataclasses.replace(agent.intrinsic, novelty=novelty),
        # With rewards of 0 a policy that seeks them is refused.
        family=dataclasses.replace(agent.family, beta_max=0.0) if novelty == "none" else agent.family,
    )
    return Learner(agent, LearnerConfig(device="cpu", target_period=2, **learner), spec, 0)


def batches_of(case: str) -> list[SequenceBatch]:
    return [make_batch(seed, CASES[case][0]) for seed in range(3)]


@pytest.mark.parametrize("case", CASES)
def test_an_update_waits_for_nothing(case: str) -> None:
    learner, plain = learner_of(case), learner_of(case)
    for batch in batches_of(case):
        weights = np.linspace(0.5, 1.0, len(batch.policy_index))
        tensors = batch.to_torch()
        with NoWaiting():
            started = learner.start(tensors, weights)
        # ... and with everything looked at, it is the same update.
        assert learner.finish(started).metrics == plain.update(batch, weights).metrics
    assert learner.updates == 3


@pytest.mark.parametrize("novelty", NOVELTIES)
def test_no_novelty_makes_an_update_wait(novelty: str) -> None:
    learner = learner_of("vectors", novelty)
    tensors = make_batch().to_torch()
    with NoWaiting():
        learner.start(tensors)


@pytest.mark.parametrize("case", CASES)
def test_an_update_can_be_made_without_any_numbers(case: str) -> None:
    """FakeTensors have shapes alone: whatever asks them for a number, `.numpy()` among it, fails."""
    real = batches_of(case)[0].to_torch()
    learner = learner_of(case)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        batch = SequenceBatch(**{name: mode.from_tensor(value) for name, value in vars(real).items()})
        for _ in range(2):
            started = learner.start(batch, np.ones(len(batch.policy_index)))
        assert isinstance(started, object)
        with pytest.raises((RuntimeError, TypeError, DataDependentOutputException, DynamicOutputShapeException)):
            learner.finish(started)


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: bool(x.any()),
        lambda x: float(x.amax()),
        lambda x: torch.equal(x, x),
        lambda x: x.repeat_interleave(torch.tensor([1, 2, 3])),
    ],
)
def test_what_waits_is_noticed(waits: Any) -> None:
    x = torch.rand(3)
    with NoWaiting(), pytest.raises(AssertionError, match="wait"):
        waits(x)


def test_every_built_in_torso_is_covered() -> None:
    assert set(TORSOS) == {"conv", "small_conv", "mlp", "nfnet"}, "a new torso needs a case above"
    assert AgentConfig().sequence.trace_length > TRACE_LENGTH
