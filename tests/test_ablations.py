"""The options that switch off one idea each: that they do, and that they switch off nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.config import ActorConfig, EvaluationConfig
from actors.environments.contract import EnvironmentConfig
from actors.evaluator import Evaluator
from actors.lanes import LaneStep
from actors.rollout import EpisodeTally, RolloutWorker
from agent57.config import (
    AgentConfig,
    BanditConfig,
    IntrinsicConfig,
    LossConfig,
    NetworkConfig,
    PolicyFamilyConfig,
    SequenceConfig,
)
from agent57.family import PolicyFamily
from agent57.networks import Agent57Networks, EmbeddingNetwork, QNetwork, RandomNetworkDistillation, flatten_weights
from agent57.novelty import make_networks
from agent57.novelty.lifelong import LifelongNovelty
from agent57.structures import SequenceSpec, padded_batch
from agent57.torsos import resolve_torso_dtype
from cluster.commands.train import train
from cluster.runtime.meta_controller import MetaController
from cluster.telemetry.metrics import read_metrics
from learner.config import LearnerConfig
from learner.learner import Learner
from tests.cluster.tiny import tiny_config
from tests.loss_oracle import (
    INDEXED,
    VECTOR,
    TableNetwork,
    batch_of,
    fast_q_losses,
    fill_whole,
    indexed,
    random_sequence,
    scales_of,
    slow_q_losses,
    tiny_network,
    varied_sequences,
)

BETAS = torch.tensor([0.0, 0.3, 1.5], dtype=torch.float64)
DISCOUNTS = torch.tensor([0.99, 0.95, 0.8], dtype=torch.float64)

MAZE = "tests.fakes:TinyMaze-v0"


def agent_config(network: NetworkConfig | None = None, **intrinsic: Any) -> AgentConfig:
    return AgentConfig(
        family=PolicyFamilyConfig(num_policies=3, beta_max=0.7, gamma_max=0.99, gamma_min=0.9),
        network=network or tiny_network(),
        intrinsic=IntrinsicConfig(num_neighbours=3, **intrinsic),
        sequence=SequenceConfig(trace_length=4, replay_period=4),
    )


SINGLE = dataclasses.replace(tiny_network(), kind="single")
MEMORYLESS = dataclasses.replace(tiny_network(), recurrent=False)


def make_worker(agent: AgentConfig, env_id: str = MAZE) -> RolloutWorker:
    return RolloutWorker(env_id, agent, ActorConfig(), EnvironmentConfig(), 0, 3, 3, seed=1)


def give_weights(worker: RolloutWorker) -> Agent57Networks:
    """Networks whose RND inputs are measured, handed to the worker."""
    torch.manual_seed(4)
    networks = make_networks(worker.agent, worker.spec).requires_grad_(False)
    if hasattr(networks, "rnd"):
        shape, scale = worker.spec.observation_shape, worker.spec.observation_scale
        networks.rnd.normalizer.observe(torch.rand(50, *shape) * scale)
    worker.set_weights(1, flatten_weights(networks))
    return networks


def watch_steps(worker: RolloutWorker, num_steps: int) -> list[LaneStep]:
    return [worker.lanes.step(lambda lane: lane) for _ in range(num_steps)]


# --- network.kind single: one network on r^e + beta r^i -------------------------------------------------------


@pytest.mark.parametrize("trace", ["retrace", "peng"])
def test_a_single_network_learns_the_mixed_reward(trace: Any) -> None:
    """The oracle of two networks, given the mixed reward, and a second network that says 0 to everything."""
    sequences, size = indexed(varied_sequences(1, INDEXED, 5))
    rng = np.random.default_rng(2)
    online, target = (TableNetwork(rng.normal(size=(size, 3)) * 4) for _ in range(2))
    config = LossConfig(trace=trace)
    scales = {"td_scale": (2.0, 1.0), "intrinsic_scale": 4.0}
    fast = fast_q_losses(
        (online,),
        (target,),
        batch_of(sequences, INDEXED, 5).to_torch(),
        BETAS,
        DISCOUNTS,
        config,
        scales_of([2.0, 1.0], 4.0),
    )
    mixed = []
    for one in sequences:
        reward = one.extrinsic_rewards + float(BETAS[one.policy_index]) * (one.intrinsic_rewards.astype(np.float64) / 4)
        mixed.append(dataclasses.replace(one, extrinsic_rewards=reward, intrinsic_rewards=0 * one.intrinsic_rewards))
    silent = TableNetwork(np.zeros((size, 3)))
    slow = slow_q_losses(mixed, (online, silent), (target, silent), BETAS, DISCOUNTS, config, **scales)
    np.testing.assert_allclose(fast.losses.detach(), [slow.losses[0], 0.0], rtol=1e-9)
    np.testing.assert_allclose(fast.priorities, slow.priorities, rtol=1e-9)
    assert any(sequence.policy_index == 2 for sequence in sequences)


def test_a_single_network_still_sees_both_rewards() -> None:
    """Two sequences of equal mixed reward that differ in what it is mixed of."""
    torch.manual_seed(0)
    network = QNetwork(VECTOR, 3, SINGLE)
    one = random_sequence(np.random.default_rng(3), VECTOR, 4)
    one.policy_index = 2
    shift = np.full(5, 0.5, np.float32)
    other = dataclasses.replace(
        one,
        extrinsic_rewards=one.extrinsic_rewards - 1.5 * shift,
        intrinsic_rewards=one.intrinsic_rewards + shift,
    )
    values = [
        fast_q_losses(
            (network,),
            (network,),
            batch_of([sequence], VECTOR, 4).to_torch(),
            BETAS.float(),
            DISCOUNTS.float(),
            LossConfig(),
        ).mean_q[0]
        for sequence in (one, other)
    ]
    assert abs(float(values[0] - values[1])) > 1e-4


def test_a_learner_with_a_single_network_trains_copies_and_resumes_it() -> None:
    learners = [Learner(agent_config(SINGLE), LearnerConfig(device="cpu", target_period=2), VECTOR, 0) for _ in "ab"]
    batch = batch_of(varied_sequences(0, VECTOR, 4), VECTOR, 4)
    first = learners[0]
    before = flatten_weights(first.networks.q_ext)
    metrics = first.update(batch).metrics
    assert not np.array_equal(flatten_weights(first.networks.q_ext), before)
    assert not any("intrinsic_loss" in tag or "intrinsic_mean_q" in tag for tag in metrics)
    assert metrics["learner/extrinsic_loss"] > 0
    first.update(batch)
    assert np.array_equal(flatten_weights(first.targets[0]), flatten_weights(first.networks.q_ext))
    assert len(first.targets) == 1
    learners[1].load_state_dict(first.state_dict())
    assert learners[1].update(batch).metrics == first.update(batch).metrics


def test_actors_of_a_single_network_give_the_learners_priorities() -> None:
    worker = make_worker(agent_config(SINGLE))
    networks = give_weights(worker)
    networks.scales.intrinsic.fill_(0.25)
    worker.set_weights(2, flatten_weights(networks))
    rollout = worker.rollout(60, [[0] * 20, [1] * 20, [2] * 20])
    batch = padded_batch(SequenceSpec(worker.spec, 4, worker.agent.network.lstm_size), len(rollout.sequences))
    for column, sequence in enumerate(rollout.sequences):
        fill_whole(batch, column, sequence)
    family = PolicyFamily.of(worker.agent.family)
    expected = fast_q_losses(
        (networks.q_ext,),
        (networks.q_ext,),
        batch.to_torch(),
        torch.tensor(family.betas, dtype=torch.float32),
        torch.tensor(family.discounts, dtype=torch.float32),
        worker.agent.loss,
        networks.scales,
    ).priorities
    np.testing.assert_allclose(rollout.priorities, expected, rtol=1e-3, atol=1e-5)


# --- network.recurrent: every step from a zero state -------------------------------------------------------


def test_a_memoryless_network_forgets_everything_but_the_present_step() -> None:
    torch.manual_seed(0)
    network = QNetwork(VECTOR, 3, MEMORYLESS)
    steps, size = 4, MEMORYLESS.lstm_size
    inputs = [
        torch.randn(steps, 2, 4),
        torch.randint(-1, 3, (steps, 2)),
        torch.randn(steps, 2),
        torch.rand(steps, 2),
    ]
    policy, state = torch.tensor([0, 2]), (torch.randn(2, size), torch.randn(2, size))
    whole, (h, c) = network(*inputs, policy, state)
    assert not h.any()
    assert not c.any()
    for t in range(steps):
        alone, _ = network.step(*(array[t] for array in inputs), policy, (torch.randn(2, size), torch.randn(2, size)))
        torch.testing.assert_close(whole[t], alone)
    remembering = QNetwork(VECTOR, 3, tiny_network())
    remembering.load_state_dict(network.state_dict())
    assert not torch.allclose(remembering(*inputs, policy, state)[0][1:], whole[1:], atol=1e-4)


# --- intrinsic.novelty, intrinsic.embedding ----------------------------------------------------------------


def test_episodic_novelty_alone_ignores_rnd() -> None:
    worker = make_worker(agent_config(novelty="episodic"))
    give_weights(worker)
    for step in watch_steps(worker, 80):
        np.testing.assert_array_equal(step.intrinsic_rewards, np.where(step.starts, 0, step.parts["episodic"]))
        assert np.isfinite(step.parts["rnd_error"]).all()


def test_lifelong_novelty_alone_is_the_rnd_error_over_its_standard_deviation() -> None:
    worker = make_worker(agent_config(novelty="lifelong"))
    give_weights(worker)
    errors: list[np.ndarray] = []
    for step in watch_steps(worker, 80):
        errors.append(step.parts["rnd_error"])
        # The first observations of all lanes are alike; they start episodes, which are paid nothing.
        expected = step.parts["rnd_error"] / max(np.std(np.concatenate(errors)), 1e-12)
        np.testing.assert_allclose(step.intrinsic_rewards, np.where(step.starts, 0, expected), rtol=1e-3)
    assert np.concatenate(errors).std() > 0


def test_lifelong_novelty_pays_nothing_before_errors_can_be_measured() -> None:
    novelty = LifelongNovelty()
    assert novelty.scaled(np.full(3, np.nan, np.float32)).tolist() == [0, 0, 0]
    novelty.multiplier(np.array([1.0, 3.0]))
    np.testing.assert_allclose(novelty.scaled(np.array([2.0, np.nan])), [2.0, 0.0])


def test_without_novelty_nothing_of_it_is_paid_computed_or_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    family = PolicyFamilyConfig(num_policies=3, beta_max=0.0, gamma_max=0.99, gamma_min=0.9)
    agent = dataclasses.replace(
        agent_config(), family=family, intrinsic=IntrinsicConfig(num_neighbours=3, novelty="none")
    )
    worker = make_worker(agent)
    give_weights(worker)
    monkeypatch.setattr(EmbeddingNetwork, "forward", None)
    monkeypatch.setattr(RandomNetworkDistillation, "forward", None)
    for step in watch_steps(worker, 40):
        assert not step.intrinsic_rewards.any()
    learner = Learner(agent, LearnerConfig(device="cpu"), VECTOR, 0)
    metrics = learner.update(batch_of(varied_sequences(0, VECTOR, 4), VECTOR, 4)).metrics
    assert not any("rnd" in tag or "embedding" in tag for tag in metrics)
    assert metrics["learner/extrinsic_loss"] > 0
    assert not any(hasattr(learner.networks, name) for name in ("embedding", "rnd"))


def test_betas_need_something_to_weigh() -> None:
    with pytest.raises(ValueError, match=r"add --family\.beta-max 0"):
        agent_config(novelty="none")


def test_a_random_embedding_stays_as_it_was() -> None:
    batch = batch_of(varied_sequences(0, VECTOR, 4), VECTOR, 4)
    for kind, stays in (("random", True), ("learned", False)):
        learner = Learner(agent_config(embedding=kind), LearnerConfig(device="cpu"), VECTOR, 0)
        before = {name: value.clone() for name, value in learner.networks.embedding.named_parameters()}
        rnd = flatten_weights(learner.networks.rnd.predictor)
        for _ in range(3):
            learner.update(batch)
        after = dict(learner.networks.embedding.named_parameters())
        assert all(torch.equal(after[name], before[name]) for name in before) is stays
        assert not np.array_equal(flatten_weights(learner.networks.rnd.predictor), rnd)


# --- bandit.assignment, evaluation.policy-index ------------------------------------------------------------


@pytest.mark.parametrize(("assignment", "expected"), [("per_lane", [0, 1, 2, 0]), ("most_exploratory", [2] * 4)])
def test_fixed_assignments_never_ask_the_bandit(assignment: Any, expected: list[int]) -> None:
    meta = MetaController(BanditConfig(assignment=assignment, scope="shared"), 3, num_lanes=4, seed=0)
    for _ in range(3):
        arms = meta.top_up(range(4), [0] * 4)
        assert [set(queue) for queue in arms] == [{arm} for arm in expected]


def test_the_evaluator_can_be_held_to_one_policy() -> None:
    evaluation = EvaluationConfig(episodes=3, policy_index=1)
    evaluator = Evaluator("tests.fakes:Chain-v0", agent_config(), evaluation, EnvironmentConfig(), 0)
    for _ in range(2):
        evaluator.begin(favourite_arm=2)
        episodes = []
        while evaluator.playing:
            episodes += evaluator.play(50)
        assert [episode.policy_index for episode in episodes] == [1, 1, 1]
    assert evaluator.bandit.greedy_arm() == 1


def test_a_policy_that_is_not_in_the_family_cannot_be_evaluated() -> None:
    with pytest.raises(ValueError, match="policy-index must lie between 0 and 3"):
        tiny_config(evaluation=EvaluationConfig(policy_index=4))


# --- torso dtype "auto" ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True}, torch.float32),
        ({"avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
    ],
)
def test_auto_uses_bfloat16_only_where_the_processor_computes_it(
    capabilities: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_torso_dtype("auto") == expected
    assert resolve_torso_dtype("float32") == torch.float32
    assert resolve_torso_dtype("bfloat16") == torch.bfloat16


# --- Revisits ----------------------------------------------------------------------------------------------


def lane_step(starts: list[bool], ends: list[bool], revisits: list[bool] | None) -> LaneStep:
    """Step of two lanes in which only what an `EpisodeTally` reads is set."""
    zeros = np.zeros(2, np.float32)
    values = dict.fromkeys((field.name for field in dataclasses.fields(LaneStep)), zeros)
    values |= {"starts": np.array(starts), "ends": np.array(ends), "policy_index": np.zeros(2, np.int64)}
    return LaneStep(**values | {"revisits": None if revisits is None else np.array(revisits)})


def test_the_states_that_an_episode_visited_are_counted_once_each() -> None:
    tally = EpisodeTally(2)
    epsilons = np.zeros(2)
    # The environments' first reset says nothing of revisits; the first state counts all the same.
    assert tally.add(lane_step([True, True], [False, False], None), 0, epsilons) == []
    assert tally.add(lane_step([False, False], [False, False], [False, True]), 0, epsilons) == []
    (first,) = tally.add(lane_step([False, False], [True, False], [False, True]), 0, epsilons)
    assert (first.lane, first.length, first.new_states) == (0, 2, 3)
    (second,) = tally.add(lane_step([True, False], [False, True], [False, True]), 0, epsilons)
    assert (second.lane, second.length, second.new_states) == (1, 3, 1)
    (third,) = tally.add(lane_step([False, True], [True, False], [True, False]), 0, epsilons)
    assert (third.lane, third.length, third.new_states) == (0, 1, 1)


def test_a_run_on_a_gridworld_logs_novelty_of_new_and_of_old_states(tmp_path: Path) -> None:
    config = tiny_config(
        env="Agent57/RandomCoin-v0",
        environment=EnvironmentConfig(arguments=("size=5",)),
        run_dir=str(tmp_path / "run"),
        max_env_frames=1500,
    )
    assert train(config, "smoke", None) == 0
    metrics = read_metrics(tmp_path / "run")
    for tag in ("intrinsic/episodic_new", "intrinsic/episodic_revisits", "return/new_states"):
        assert np.isfinite(metrics[tag].values).all()
    assert 1 <= metrics["evaluation/new_states"].values.min() <= metrics["evaluation/new_states"].values.max() <= 25
