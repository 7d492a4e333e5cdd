"""Two ranks on half batches against one learner on the whole batch, over real gloo groups of processes."""

from __future__ import annotations

import dataclasses
import multiprocessing
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent57.config import LossConfig, SequenceConfig
from agent57.networks import flatten_weights, moments
from agent57.structures import SequenceBatch
from cluster.run.checkpoint import load_tree, save_tree
from learner import data_parallel
from learner.config import LearnerConfig
from learner.data_parallel import DistributedRanks, Ranks
from learner.learner import Learner
from tests.learner.test_learner import TRACE_LENGTH, agent_config, make_batch
from tests.loss_oracle import SMALL_IMAGE, VECTOR, batch_of, varied_sequences

UPDATES = 6
CASES = {
    # Clipped at every update; every running scale in use; a target copy in between.
    "clipped and normalised": ({"normalize_td": True, "normalize_intrinsic": True}, {"max_grad_norm": 0.05}),
    "plain": ({}, {"max_grad_norm": 1e9}),
    "burn-in": ({"burn_in": 2}, {}),
    "all policies": (
        {"trace": "soft_watkins", "trust_region": 0.05, "normalize_td": True, "td_scale": "policy"},
        {"optimizer": "adamw"},
    ),
    "scales of policies, trust region": (
        {
            "trace": "soft_watkins",
            "bootstrap": "online",
            "trust_region": 0.002,
            "normalize_td": True,
            "td_scale": "policy",
        },
        {},
    ),
}


def make_learner(case: str, ranks: Ranks | None = None, seed: int = 0) -> Learner:
    loss, learner = CASES.get(case, ({}, {}))
    period = TRACE_LENGTH - loss.get("burn_in", 0)
    network = agent_config().network
    if case == "all policies":
        network = dataclasses.replace(network, kind="shared", policy_head=True)
    agent = dataclasses.replace(
        agent_config(),
        network=network,
        loss=LossConfig(**loss),
        sequence=SequenceConfig(trace_length=TRACE_LENGTH, replay_period=period),
    )
    config = LearnerConfig(device="cpu", target_period=4, learning_rate=1e-3, **learner)
    return Learner(agent, config, VECTOR, seed, ranks)


def whole_batch(seed: int) -> SequenceBatch:
    """Six sequences of unequal length: the halves differ in valid steps and in auxiliary transitions."""
    sequences = varied_sequences(seed, VECTOR, TRACE_LENGTH) + varied_sequences(seed + 100, VECTOR, TRACE_LENGTH)[:1]
    batch = batch_of(sequences, VECTOR, TRACE_LENGTH)
    lengths = batch.mask.sum(0)
    assert lengths[0::2].sum() != lengths[1::2].sum()
    return batch


def importance(case: str, update: int) -> np.ndarray:
    """Of the six sequences: unequal for a shared network."""
    return np.random.default_rng(update).uniform(0.2, 1, 6) if case == "all policies" else np.ones(6)


def part(batch: SequenceBatch, rank: int, count: int) -> SequenceBatch:
    """Columns rank, rank + count, ... of a batch."""
    columns = slice(rank, None, count)
    values = dict(vars(batch))
    for name, value in values.items():
        axis = {"policy_index": 0, "recurrent_state": 2}.get(name, 1)
        values[name] = value[(slice(None),) * axis + (columns,)].copy()
    return SequenceBatch(**values)


def rank_main(rank: int, address: str, out: Path) -> None:
    """One rank, through all cases; "nan" is the plain case with a broken batch on rank 1."""
    torch.set_num_threads(1)
    ranks = DistributedRanks(rank, 2, address, torch.device("cpu"), timeout_seconds=120)
    # Small enough that the tiny networks of these tests make several.
    data_parallel.BUCKET_BYTES = 1500
    for case in [*CASES, "nan"]:
        # Another seed: `synchronise` must make them alike.
        learner = make_learner(case, ranks, seed=0 if rank == 0 else 99)
        learner.synchronise()
        rows = []
        for update in range(UPDATES):
            batch = part(whole_batch(update), rank, 2)
            if case == "nan" and update == 2 and rank == 1:
                batch.extrinsic_rewards[:] = np.nan
            result = learner.update(batch, importance(case, update)[rank::2])
            priorities = None if result.priorities is None else result.priorities.tolist()
            rows.append({"metrics": result.metrics, "priorities": priorities})
        save_tree(out, f"{case}-{rank}", {"rows": rows, "state": learner.state_dict()})
    save_tree(out, f"order-{rank}", {"events": order_of_events(ranks)})
    ranks.close()


def order_of_events(ranks: Ranks) -> list[str]:
    """Gradients and messages of a second update, as they come."""
    learner, events = make_learner(next(iter(CASES)), ranks), []
    learner.synchronise()
    learner.update(part(whole_batch(1), ranks.rank, 2))
    start_sum = ranks.start_sum_
    for parameter in learner.networks.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda _: events.append("gradient"))
    ranks.start_sum_ = lambda tensor: (events.append("sent"), start_sum(tensor))[1]  # type: ignore[method-assign]
    learner.update(part(whole_batch(0), ranks.rank, 2))
    return events


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what both ranks reached in every case."""
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=rank_main, args=(rank, address, out)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0]
    return out


def test_gradients_travel_while_others_are_computed(outcome: Path) -> None:
    """The first bucket is on its way before backward has reached the first layers, in the same order on both ranks."""
    for rank in (0, 1):
        happened = load_tree(outcome, f"order-{rank}")["events"]
        assert happened.count("sent") >= 4
        assert happened.index("sent") < max(index for index, event in enumerate(happened) if event == "gradient")
        assert happened.index("sent") < len(happened) / 3


def tensors(tree: Any, name: str = "") -> dict[str, torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return {name: tree}
    if isinstance(tree, dict):
        return {k: v for key, child in tree.items() for k, v in tensors(child, f"{name}/{key}").items()}
    if isinstance(tree, list | tuple):
        return {k: v for key, child in enumerate(tree) for k, v in tensors(child, f"{name}/{key}").items()}
    return {name: torch.tensor(float(tree))} if isinstance(tree, int | float) else {}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_on_half_batches_equal_one_on_the_whole(case: str, outcome: Path) -> None:
    """Weights, targets, Adam states, scales, RND moments, metrics and priorities after several updates."""
    first, second = (load_tree(outcome, f"{case}-{rank}") for rank in (0, 1))
    alone = make_learner(case)
    start = flatten_weights(alone.networks)
    results = [alone.update(whole_batch(update), importance(case, update)) for update in range(UPDATES)]
    assert np.abs(flatten_weights(alone.networks) - start).max() > 1e-3, "nothing was learned"

    one, two, whole = (tensors(state) for state in (first["state"], second["state"], alone.state_dict()))
    assert one.keys() == two.keys() == whole.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    for name, value in whole.items():
        torch.testing.assert_close(
            one[name], value, rtol=2e-4, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
    for row_one, row_two, result in zip(first["rows"], second["rows"], results, strict=True):
        assert row_one["metrics"] == row_two["metrics"]
        for tag, value in result.metrics.items():
            assert row_one["metrics"][tag] == pytest.approx(value, rel=2e-3, abs=1e-5), tag
        assert result.priorities is not None
        merged = np.empty_like(result.priorities)
        merged[0::2], merged[1::2] = row_one["priorities"], row_two["priorities"]
        np.testing.assert_allclose(merged, result.priorities, rtol=1e-3, atol=1e-6)
    if "trust region" in case:
        assert any(0 < row["metrics"]["learner/masked_share"] < 0.9 for row in first["rows"])
    if case.startswith("clipped"):
        assert all(row["metrics"]["learner/extrinsic_grad_norm"] > 0.05 for row in first["rows"])


def test_a_nan_of_one_rank_makes_both_skip(outcome: Path) -> None:
    first, second = (load_tree(outcome, f"nan-{rank}") for rank in (0, 1))
    for trees in (first, second):
        assert [row["priorities"] is None for row in trees["rows"]] == [update == 2 for update in range(UPDATES)]
        assert trees["state"]["bad_updates"] == 1
        assert trees["state"]["updates"] == UPDATES - 1
    one, two = tensors(first["state"]), tensors(second["state"])
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert all(value.isfinite().all() for value in one.values())


def test_moments_by_itself_are_those_of_numpy() -> None:
    samples = torch.from_numpy(np.random.default_rng(0).normal(50, 3, (7, 4, 2))).float()
    counted = torch.tensor([True, False, True, True, True, True, False])
    count, mean, variance = moments(samples, counted)
    assert int(count) == 5
    np.testing.assert_allclose(mean, samples[counted].numpy().mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, samples[counted].numpy().var(0), rtol=1e-4)


def test_a_rank_by_itself_makes_the_update_it_always_made() -> None:
    """`Ranks()` is the default and changes nothing, bit for bit."""
    batch = make_batch(0, SMALL_IMAGE)
    learners = [
        Learner(agent_config(), LearnerConfig(device="cpu"), SMALL_IMAGE, 0, ranks) for ranks in (None, Ranks())
    ]
    for learner in learners:
        learner.update(batch)
        learner.synchronise()
    assert np.array_equal(*(flatten_weights(learner.networks) for learner in learners))
