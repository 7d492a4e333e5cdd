"""The learner as a whole: what an update changes, what it must not, resuming bit for bit, and that it learns."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agent57.config import AgentConfig, LossConfig, PolicyFamilyConfig, SequenceConfig
from agent57.networks import Agent57Networks, load_flat_weights
from agent57.structures import NO_ACTION, EnvironmentSpec, SequenceBatch, SequenceSpec, padded_batch
from agent57.values import rescale
from cluster.run.checkpoint import load_tree, save_tree
from learner.config import LearnerConfig
from learner.learner import Learner
from learner.updates import TrainingDiverged, UpdateResult
from tests.loss_oracle import LSTM_SIZE, SMALL_IMAGE, VECTOR, batch_of, tiny_network, varied_sequences

TRACE_LENGTH = 5
PARTS = ("extrinsic", "intrinsic", "embedding", "rnd")


def agent_config(**loss: Any) -> AgentConfig:
    return AgentConfig(
        family=PolicyFamilyConfig(num_policies=3, gamma_max=0.99, gamma_min=0.9),
        network=tiny_network(),
        loss=LossConfig(**loss),
        sequence=SequenceConfig(trace_length=TRACE_LENGTH, replay_period=TRACE_LENGTH),
    )


def make_learner(
    seed: int = 0, spec: EnvironmentSpec = VECTOR, agent: AgentConfig | None = None, **config: Any
) -> Learner:
    return Learner(agent or agent_config(), LearnerConfig(device="cpu", **config), spec, seed)


def make_batch(seed: int = 0, spec: EnvironmentSpec = VECTOR) -> SequenceBatch:
    return batch_of(varied_sequences(seed, spec, TRACE_LENGTH), spec, TRACE_LENGTH)


def trained(learner: Learner) -> dict[str, nn.Module]:
    networks = learner.networks
    return dict(zip(PARTS, (networks.q_ext, networks.q_int, networks.embedding, networks.rnd.predictor), strict=True))


def vector_of(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


def same(one: Any, other: Any) -> bool:
    """Whether two trees of dicts, lists, numbers and tensors are equal bit for bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


# --- One update --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [VECTOR, SMALL_IMAGE], ids=["vector", "image"])
def test_update_trains_four_networks_and_neither_rnd_target_nor_target_networks(spec: EnvironmentSpec) -> None:
    learner = make_learner(spec=spec)
    before = {name: vector_of(module) for name, module in trained(learner).items()}
    fixed = [vector_of(learner.networks.rnd.target), vector_of(learner.targets)]
    result = learner.update(make_batch(spec=spec))
    for name, module in trained(learner).items():
        assert not torch.equal(vector_of(module), before[name]), name
        assert all(parameter.grad is not None for parameter in module.parameters()), name
    assert same([vector_of(learner.networks.rnd.target), vector_of(learner.targets)], fixed)
    assert learner.updates == 1
    assert result.priorities is not None
    assert result.priorities.shape == (5,)
    assert (result.priorities > 0).all()
    assert all(type(value) is float and np.isfinite(value) for value in result.metrics.values())


def test_targets_are_copied_hard_at_every_target_period() -> None:
    learner = make_learner(target_period=3)
    online = nn.ModuleList([learner.networks.q_ext, learner.networks.q_int])
    expected = vector_of(online)
    for updates in range(1, 8):
        learner.update(make_batch(updates))
        if updates % 3 == 0:
            expected = vector_of(online)
        assert torch.equal(vector_of(learner.targets), expected), updates
        assert not torch.equal(vector_of(online), expected) or updates % 3 == 0


def test_each_network_moves_at_its_own_learning_rate() -> None:
    """Adam's first step moves every weight with a gradient by the learning rate."""
    learner = make_learner(learning_rate=1e-3, rnd_learning_rate=2e-3, embedding_learning_rate=4e-3, adam_epsilon=1e-12)
    before = {name: vector_of(module) for name, module in trained(learner).items()}
    learner.update(make_batch())
    rates = {"extrinsic": 1e-3, "intrinsic": 1e-3, "rnd": 2e-3, "embedding": 4e-3}
    for name, module in trained(learner).items():
        assert float((vector_of(module) - before[name]).abs().max()) == pytest.approx(rates[name], rel=1e-3), name


def test_weight_penalty_is_on_the_embedding_alone() -> None:
    weights = []
    for penalty in (0.0, 10.0):
        learner = make_learner(embedding_l2=penalty)
        learner.update(make_batch())
        weights.append({name: vector_of(module) for name, module in trained(learner).items()})
    changed = {name for name in PARTS if not torch.equal(weights[0][name], weights[1][name])}
    assert changed == {"embedding"}


def gradient_norm(module: nn.Module) -> float:
    return float(torch.stack([parameter.grad.norm() for parameter in module.parameters()]).norm())


def test_huge_gradients_of_one_network_do_not_scale_the_others() -> None:
    """A tiny td_scale makes the extrinsic errors huge and touches nothing else."""
    calm, wild = make_learner(), make_learner()
    wild.networks.scales.td[0] = 1e-6
    before, after = (learner.update(make_batch()).metrics for learner in (calm, wild))
    # Errors 1e6 times as large, in the clip's units.
    assert after["learner/extrinsic_grad_norm"] > 0.9e6 * before["learner/extrinsic_grad_norm"] > 40
    assert (before["learner/extrinsic_clipped"], after["learner/extrinsic_clipped"]) == (0, 1)
    assert gradient_norm(wild.networks.q_ext) == pytest.approx(40.0 / 1e-6, rel=1e-4)
    for name in ("intrinsic", "embedding", "rnd"):
        assert torch.equal(vector_of(trained(wild)[name]), vector_of(trained(calm)[name])), name
        assert after[f"learner/{name}_grad_norm"] == before[f"learner/{name}_grad_norm"]


def test_the_first_reward_after_none_is_not_clipped_away() -> None:
    """While no reward comes sigma sinks; the gradient of the first reward is then 1 / sigma^2 times as large."""
    calm, normalised = make_learner(), make_learner(agent=agent_config(normalize_td=True))
    normalised.networks.scales.td[0] = sigma = 0.1
    before, after = (learner.update(make_batch()).metrics for learner in (calm, normalised))
    bare = gradient_norm(normalised.networks.q_ext)
    assert bare > 40
    assert bare == pytest.approx(gradient_norm(calm.networks.q_ext) / sigma**2, rel=1e-3)
    assert after["learner/extrinsic_grad_norm"] == pytest.approx(sigma * bare, rel=1e-4)
    assert after["learner/extrinsic_clipped"] == before["learner/extrinsic_clipped"] == 0


@pytest.mark.parametrize("part", PARTS)
def test_every_network_is_clipped_by_itself(part: str) -> None:
    learner = make_learner(max_grad_norm=1e-4)
    norms = learner.update(make_batch()).metrics
    assert norms[f"learner/{part}_grad_norm"] > 1e-3
    assert gradient_norm(trained(learner)[part]) == pytest.approx(1e-4, rel=0.02)


def test_only_the_last_transitions_train_embedding_and_rnd() -> None:
    """With 2 of them, observations further back than 3 steps from a sequence's end do not matter."""
    learners, batches = [make_learner(auxiliary_steps=2) for _ in range(2)], [make_batch() for _ in range(2)]
    batches[1].observations[:2, 0] += 1.0
    for learner, batch in zip(learners, batches, strict=True):
        learner.update(batch)
    first, second = ({name: vector_of(module) for name, module in trained(one).items()} for one in learners)
    assert {name for name in PARTS if torch.equal(first[name], second[name])} == {"embedding", "rnd"}
    # Arrived-at frames of min(2, n) transitions per sequence.
    assert learners[0].networks.rnd.normalizer.count == 2 + 2 + 2 + 2 + 1


def test_embedding_and_rnd_train_on_the_right_frames_and_actions() -> None:
    learner, batch = make_learner(auxiliary_steps=2), make_batch()
    embedding, rnd = copy.deepcopy(learner.networks.embedding), copy.deepcopy(learner.networks.rnd)
    metrics = learner.update(batch).metrics
    sequences = varied_sequences(0, VECTOR, TRACE_LENGTH)
    wanted = [(s, t) for s in sequences for t in range(max(0, s.num_transitions - 2), s.num_transitions)]
    losses = []
    for sequence, t in wanted:
        pair = torch.from_numpy(sequence.observations[t : t + 2])
        logits = embedding.action_logits(*embedding(pair).split(1))[0]
        losses.append(-float(logits.log_softmax(-1)[int(sequence.actions[t])].detach()))
    assert metrics["learner/embedding_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    arrivals = np.stack([sequence.observations[t + 1] for sequence, t in wanted])
    error = float(rnd(torch.from_numpy(arrivals)).mean().detach())
    assert metrics["learner/rnd_error"] == pytest.approx(error, rel=1e-4)
    for network in (learner.networks.rnd, learner.networks.embedding):
        assert network.normalizer.count == len(wanted)
        np.testing.assert_allclose(network.normalizer.mean, arrivals.mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(network.normalizer.std, arrivals.std(0), rtol=1e-4)


def test_bfloat16_torsos_learn_nearly_the_same_in_float32_weights() -> None:
    exact, rounded = make_learner(spec=SMALL_IMAGE), make_learner(spec=SMALL_IMAGE, torso_dtype="bfloat16")
    losses = [learner.update(make_batch(spec=SMALL_IMAGE)).metrics for learner in (exact, rounded)]
    assert losses[0] != losses[1]
    for name in ("learner/extrinsic_loss", "learner/intrinsic_loss", "learner/rnd_error"):
        assert losses[1][name] == pytest.approx(losses[0][name], rel=0.1)
    assert all(parameter.dtype == torch.float32 for parameter in rounded.networks.parameters())


# --- Running scales ----------------------------------------------------------------------------------------


def test_scales_stay_exactly_one_by_default() -> None:
    learner = make_learner()
    for seed in range(3):
        learner.update(make_batch(seed))
    assert learner.networks.scales.td.tolist() == [1.0, 1.0]
    assert learner.networks.scales.intrinsic == 1.0


def arrived(batch: SequenceBatch, name: str) -> np.ndarray:
    return getattr(batch, name)[1:][batch.mask]


def test_intrinsic_scale_follows_the_rewards_learned_from() -> None:
    learner = make_learner(agent=agent_config(normalize_intrinsic=True))
    first, second = make_batch(1), make_batch(2)
    second.intrinsic_rewards *= 10
    learner.update(first)
    assert float(learner.networks.scales.intrinsic) == pytest.approx(
        arrived(first, "intrinsic_rewards").std(), rel=1e-4
    )
    learner.update(second)
    rewards, older = arrived(second, "intrinsic_rewards"), arrived(first, "intrinsic_rewards")
    weights = 0.999 / 1.999, 1 / 1.999
    mean = weights[0] * older.mean() + weights[1] * rewards.mean()
    square = weights[0] * (older**2).mean() + weights[1] * (rewards**2).mean()
    assert float(learner.networks.scales.intrinsic) == pytest.approx(np.sqrt(square - mean**2), rel=1e-3)
    assert learner.networks.scales.td.tolist() == [1.0, 1.0]


def test_td_scale_follows_the_raw_errors_and_divides_the_loss() -> None:
    """Frozen networks: errors, before scaling, are the same each time, so the scale settles at once."""
    frozen = {"learning_rate": 0.0, "embedding_learning_rate": 0.0, "rnd_learning_rate": 0.0}
    learner = make_learner(agent=agent_config(normalize_td=True), **frozen)
    first = learner.update(make_batch())
    scales = learner.networks.scales.td.clone()
    second = learner.update(make_batch())
    assert first.priorities is not None
    assert second.priorities is not None
    for net, name in enumerate(("extrinsic", "intrinsic")):
        loss, normalized = first.metrics[f"learner/{name}_loss"], second.metrics[f"learner/{name}_loss"]
        assert normalized == pytest.approx(loss / float(scales[net]) ** 2, rel=1e-4)
        assert float(scales[net]) != 1.0
    torch.testing.assert_close(learner.networks.scales.td, scales, rtol=1e-3, atol=1e-4)
    batch = make_batch()
    exploitative = batch.policy_index == 0
    assert exploitative.any()
    np.testing.assert_allclose(
        second.priorities[exploitative], first.priorities[exploitative] / float(scales[0]), rtol=1e-4
    )
    assert learner.networks.scales.intrinsic == 1.0


def test_scales_take_in_no_infinity() -> None:
    """The square of a reward may overflow where the reward does not."""
    learner = make_learner(agent=agent_config(normalize_intrinsic=True))
    learner.update(make_batch(1))
    before = learner.networks.scales.intrinsic.clone()
    batch = make_batch(2).to_torch()
    batch.intrinsic_rewards[2, 0] = 1e30
    errors = torch.zeros(2, *batch.mask.shape)
    arrived = batch.intrinsic_rewards[1:]
    statistics = learner.networks.scales.summed(errors, batch.mask, batch.policy_index, arrived)
    learner._running_scales.update(statistics, (False, True))
    torch.testing.assert_close(learner.networks.scales.intrinsic, before, rtol=1e-3, atol=0)


# --- Updates that must be skipped --------------------------------------------------------------------------


def poisoned_batch(field: str) -> SequenceBatch:
    batch = make_batch()
    getattr(batch, field)[2, 0] = np.nan
    return batch


def everything(learner: Learner) -> dict[str, Any]:
    return copy.deepcopy({**learner.state_dict(), "bad_updates": 0})


@pytest.mark.parametrize("field", ["extrinsic_rewards", "behaviour_probs", "observations"])
@pytest.mark.parametrize("updates_before", [0, 2])
def test_update_with_a_nan_is_skipped_and_counted(field: str, updates_before: int) -> None:
    """It would have been a third one, which ends in a copy into the targets."""
    learner = make_learner(agent=agent_config(normalize_td=True, normalize_intrinsic=True), target_period=3)
    for seed in range(updates_before):
        learner.update(make_batch(seed))
    before = everything(learner)
    result = learner.update(poisoned_batch(field))
    assert result.priorities is None
    assert result.metrics == {"learner/bad_updates": 1.0}
    assert same(before, everything(learner))
    assert learner.bad_updates == 1
    assert learner.update(make_batch()).priorities is not None


def test_one_bad_observation_does_not_stop_training() -> None:
    """It must not stay in the moments that observations are normalised by."""
    learner, batch = make_learner(), make_batch()
    batch.observations[TRACE_LENGTH, 0] = np.nan
    assert learner.update(batch).priorities is None
    assert learner.update(make_batch()).priorities is not None


def test_lasting_nan_stops_training_and_names_what_began() -> None:
    learner = make_learner(max_bad_updates=3)
    learner.update(make_batch())
    for _ in range(2):
        assert learner.update(poisoned_batch("extrinsic_rewards")).priorities is None
    assert learner.update(make_batch()).priorities is not None, "two in a row, then a good one"
    learner.networks.scales.td[1] = 0.0
    assert learner.update(make_batch()).priorities is None
    learner.networks.scales.td[1] = 1.0
    assert learner.update(poisoned_batch("extrinsic_rewards")).priorities is None
    with pytest.raises(TrainingDiverged, match=r"^3 updates in a row.*learner/intrinsic_loss = nan at update 2$"):
        learner.update(poisoned_batch("extrinsic_rewards"))
    assert learner.bad_updates == 5
    assert learner.updates == 2


# --- Resuming ----------------------------------------------------------------------------------------------


def through_memory(state: dict[str, Any], _: Path) -> dict[str, Any]:
    return copy.deepcopy(state)


def through_files(state: dict[str, Any], directory: Path) -> dict[str, Any]:
    save_tree(directory, "learner", state)
    return load_tree(directory, "learner")


def continue_both(original: Learner, restored: Learner, spec: EnvironmentSpec) -> None:
    """Both must do the same for three updates, over a copy of the targets."""
    assert same(original.state_dict(), restored.state_dict())
    for seed in range(10, 13):
        one, other = original.update(make_batch(seed, spec)), restored.update(make_batch(seed, spec))
        assert one.metrics == other.metrics
        np.testing.assert_array_equal(one.priorities, other.priorities)
        np.testing.assert_array_equal(original.weights(), restored.weights())
    assert same(original.state_dict(), restored.state_dict())


@pytest.mark.parametrize("journey", [through_memory, through_files])
@pytest.mark.parametrize("normalize", [False, True])
def test_restored_learner_makes_the_same_updates(
    journey: Callable[[dict[str, Any], Path], dict[str, Any]], normalize: bool, tmp_path: Path
) -> None:
    agent = agent_config(normalize_td=normalize, normalize_intrinsic=normalize)
    original, restored = (make_learner(seed, agent=agent, target_period=4, learning_rate=1e-2) for seed in (0, 1))
    for seed in range(3):
        original.update(make_batch(seed))
    restored.load_state_dict(journey(original.state_dict(), tmp_path))
    assert restored.updates == 3
    continue_both(original, restored, VECTOR)


@pytest.mark.parametrize("journey", [through_memory, through_files])
def test_restored_learner_of_images_makes_the_same_updates(
    journey: Callable[[dict[str, Any], Path], dict[str, Any]], tmp_path: Path
) -> None:
    original, restored = (make_learner(seed, SMALL_IMAGE, target_period=4, learning_rate=1e-2) for seed in (0, 1))
    for seed in range(3):
        original.update(make_batch(seed, SMALL_IMAGE))
    restored.load_state_dict(journey(original.state_dict(), tmp_path))
    continue_both(original, restored, SMALL_IMAGE)


def test_state_of_other_networks_is_refused() -> None:
    with pytest.raises(RuntimeError):
        make_learner(spec=SMALL_IMAGE).load_state_dict(make_learner().state_dict())


def test_a_resume_may_change_the_learning_rate(tmp_path: Path) -> None:
    before = make_learner(learning_rate=1e-2)
    before.update(make_batch())
    state = through_files(before.state_dict(), tmp_path)
    same_rate, no_rate = make_learner(learning_rate=1e-2), make_learner(learning_rate=1e-30)
    for learner in (same_rate, no_rate):
        learner.load_state_dict(state)
        learner.update(make_batch(1))
    assert not same(same_rate.networks.q_ext.state_dict(), before.networks.q_ext.state_dict())
    assert same(no_rate.networks.q_ext.state_dict(), before.networks.q_ext.state_dict())


@pytest.mark.parametrize("harm", ["short", "long", "missing", "additional"])
def test_moments_of_another_shape_are_refused(harm: str, tmp_path: Path) -> None:
    """Adam's fused kernel would read and write beyond them."""
    original = make_learner()
    original.update(make_batch())
    state = through_files(original.state_dict(), tmp_path)
    held = next(iter(state["optimizers"]["rnd"]["state"].values()))
    if harm == "missing":
        del held["exp_avg_sq"]
    elif harm == "additional":
        held["max_exp_avg_sq"] = held["exp_avg_sq"]
    else:
        held["exp_avg"] = torch.zeros(1 if harm == "short" else 10**6)
    with pytest.raises(RuntimeError, match="do not have its shape"):
        make_learner().load_state_dict(state)


def test_same_seed_same_learner_and_no_global_random_state() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, other, different = make_learner(7), make_learner(7), make_learner(8)
    for learner in (one, other):
        learner.update(make_batch())
    assert torch.equal(torch.rand(1), expected)
    np.testing.assert_array_equal(one.weights(), other.weights())
    assert not np.array_equal(one.weights(), different.weights())


def test_published_weights_hold_all_that_actors_need() -> None:
    learner = make_learner(spec=SMALL_IMAGE, agent=agent_config(normalize_td=True, normalize_intrinsic=True))
    learner.update(make_batch(spec=SMALL_IMAGE))
    acting = Agent57Networks(SMALL_IMAGE, 3, tiny_network())
    load_flat_weights(acting, learner.weights())
    assert same(acting.state_dict(), learner.networks.state_dict())
    assert acting.rnd.normalizer.count > 0
    assert acting.scales.td[0] != 1


def test_learner_goes_on_from_published_weights() -> None:
    lost, successor = make_learner(0), make_learner(1)
    for seed in range(3):
        lost.update(make_batch(seed))
    successor.load_weights(3, lost.weights())
    np.testing.assert_array_equal(successor.weights(), lost.weights())
    assert successor.updates == 3
    online = nn.ModuleList([successor.networks.q_ext, successor.networks.q_int])
    assert torch.equal(vector_of(successor.targets), vector_of(online))
    assert successor.update(make_batch(3)).priorities is not None


# --- It learns ---------------------------------------------------------------------------------------------


def update_many(learner: Learner, batch: SequenceBatch, count: int) -> list[UpdateResult]:
    return [learner.update(batch) for _ in range(count)]


def test_losses_on_a_fixed_batch_fall_tenfold() -> None:
    rates = {"learning_rate": 5e-3, "embedding_learning_rate": 1e-2, "rnd_learning_rate": 1e-2}
    learner = make_learner(**rates, adam_epsilon=1e-8, target_period=10_000)
    results = update_many(learner, make_batch(), 200)
    for name in ("extrinsic_loss", "intrinsic_loss", "embedding_loss", "rnd_error"):
        first, last = (results[index].metrics[f"learner/{name}"] for index in (0, -1))
        assert last < first / 10, name
    assert results[-1].metrics["learner/embedding_accuracy"] == 1.0
    assert results[0].priorities is not None
    assert results[-1].priorities is not None
    assert results[-1].priorities.mean() < results[0].priorities.mean() / 2


# A chain of two states and two actions: whatever is done, state 0 leads to state 1, and that to the end.
CHAIN = EnvironmentSpec((3,), "float32", 1.0, 2)
CHAIN_REWARDS = {"extrinsic_rewards": [[1.0, 0.0], [0.0, 2.0]], "intrinsic_rewards": [[0.0, 1.0], [4.0, 0.0]]}
CHAIN_DISCOUNT = 0.9


def chain_batch() -> SequenceBatch:
    """The four episodes, one per pair of actions, played at random with policy 1 (beta 0.3)."""
    batch = padded_batch(SequenceSpec(CHAIN, 2, LSTM_SIZE), 4)
    batch.observations[:] = np.eye(3, dtype=np.float32)[:, None]
    batch.actions[:2] = [[0, 0, 1, 1], [0, 1, 0, 1]]
    batch.previous_actions[0], batch.previous_actions[1:] = NO_ACTION, batch.actions[:2]
    batch.behaviour_probs[:] = 0.5
    for name, rewards in CHAIN_REWARDS.items():
        getattr(batch, name)[1:] = np.array(rewards)[[[0], [1]], batch.actions[:2]]
    batch.terminated[2] = True
    batch.mask[:] = True
    batch.policy_index[:] = 1
    return batch


def test_q_values_of_a_chain_become_those_of_the_shared_greedy_policy() -> None:
    """In state 1 the mix pays 0.3 * 4 for action 0 and 2 for action 1: the shared policy takes action 1, which
    the intrinsic network values although it would take action 0 itself."""
    agent = AgentConfig(
        family=PolicyFamilyConfig(num_policies=2, gamma_max=CHAIN_DISCOUNT, gamma_min=CHAIN_DISCOUNT),
        network=tiny_network(),
        sequence=SequenceConfig(trace_length=2, replay_period=2),
    )
    learner = make_learner(spec=CHAIN, agent=agent, learning_rate=1e-2, adam_epsilon=1e-8, target_period=15)
    batch = chain_batch()
    update_many(learner, batch, 200)
    tensors = batch.to_torch()
    for net, (network, rewards) in enumerate(
        zip((learner.networks.q_ext, learner.networks.q_int), CHAIN_REWARDS.values(), strict=True)
    ):
        with torch.no_grad():
            q, _ = network(
                tensors.observations,
                tensors.previous_actions,
                tensors.extrinsic_rewards,
                tensors.intrinsic_rewards,
                tensors.policy_index,
                (tensors.recurrent_state[net, 0], tensors.recurrent_state[net, 1]),
            )
        value_of_state_1 = 0.005 * rewards[1][0] + 0.995 * rewards[1][1]
        state_0 = [rewards[0][action] + CHAIN_DISCOUNT * value_of_state_1 for action in (0, 1)]
        expected = rescale(torch.tensor([state_0, rewards[1]]))
        torch.testing.assert_close(q[:2], expected[:, None].expand(2, 4, 2), rtol=0, atol=0.03)


# --- AdamW and importance --------------------------------------------------------------------------------------


def test_adamw_decays_matrices_of_the_q_networks_only() -> None:
    """Without a gradient (learning rate times decay is all that is left): weights shrink, biases stay."""
    learner = make_learner(optimizer="adamw", learning_rate=0.1, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in learner.networks.named_parameters()}
    for parameter in learner.networks.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    for optimizer in learner._optimizers.values():
        optimizer.step()
    for name, parameter in learner.networks.named_parameters():
        decays = name.startswith("q_") and parameter.dim() > 1
        assert torch.allclose(parameter, before[name] * (0.95 if decays else 1.0)) or name.startswith("embedding"), name
    assert any(p.dim() == 1 for p in learner.networks.q_ext.parameters())


def test_importance_weighs_the_sequences_in_the_loss_and_nowhere_else() -> None:
    batch = make_batch(3)
    size = batch.mask.shape[1]
    weights = np.array([4.0, 1.0, 2.0, 1.0, 0.5])[:size]
    learner = make_learner()
    result = learner.update(batch, weights)
    alone = make_learner().update(batch)
    np.testing.assert_array_equal(result.priorities, alone.priorities)
    per_sequence = []
    for b in range(size):
        columns = {name: value.copy() for name, value in vars(batch).items()}
        columns["mask"][:, [other for other in range(size) if other != b]] = False
        part = make_learner().update(SequenceBatch(**columns))
        per_sequence.append(part.metrics["learner/extrinsic_loss"])
    expected = float(np.dot(per_sequence, weights / weights.max()))
    assert result.metrics["learner/extrinsic_loss"] == pytest.approx(expected, rel=1e-5)
    assert alone.metrics["learner/extrinsic_loss"] == pytest.approx(sum(per_sequence), rel=1e-5)


def test_a_shared_network_goes_on_bit_for_bit_from_its_state(tmp_path: Path) -> None:
    loss = {
        "trace": "soft_watkins",
        "bootstrap": "online",
        "trust_region": 1.0,
        "normalize_td": True,
        "td_scale": "policy",
    }
    agent = agent_config(**loss)
    agent = dataclasses.replace(agent, network=dataclasses.replace(agent.network, kind="shared", policy_head=True))
    first = make_learner(agent=agent, optimizer="adamw", target_period=3)
    for seed in range(4):
        first.update(make_batch(seed))
    save_tree(tmp_path, "learner", first.state_dict())
    second = make_learner(seed=9, agent=agent, optimizer="adamw", target_period=3)
    second.load_state_dict(load_tree(tmp_path, "learner"))
    for seed in range(4, 8):
        one, other = (learner.update(make_batch(seed)) for learner in (first, second))
        assert one.metrics == other.metrics
    assert same(first.state_dict(), second.state_dict())
