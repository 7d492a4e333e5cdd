"""The rollout worker: priorities, counting, arms, and a state that continues bit for bit."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from actors.config import ActorConfig
from actors.environments.contract import EnvironmentConfig
from actors.rollout import Rollout, RolloutWorker
from agent57.config import AgentConfig, IntrinsicConfig, LossConfig, NetworkConfig, PolicyFamilyConfig, SequenceConfig
from agent57.family import PolicyFamily
from agent57.networks import Agent57Networks, flatten_weights
from agent57.structures import Sequence, SequenceSpec, padded_batch
from cluster.run.checkpoint import load_tree, save_tree
from learner.config import LearnerConfig
from learner.learner import Learner
from tests.loss_oracle import fast_q_losses, fill_whole

gymnasium.register("CounterOfThree-v0", "tests.fakes:Counter", kwargs={"endings": ((3, False),)})
gymnasium.register(
    "CounterOfManyLengths-v1",
    "tests.fakes:Counter",
    kwargs={"endings": ((3, False), (9, True), (1, False), (6, True), (23, False))},
)
NUM_POLICIES = 3
AGENT = AgentConfig(
    family=PolicyFamilyConfig(num_policies=NUM_POLICIES, beta_max=0.7, gamma_max=0.99, gamma_min=0.9),
    network=NetworkConfig("mlp", torso_size=16, lstm_size=8, head_size=8, embedding_size=4, rnd_size=8),
    intrinsic=IntrinsicConfig(num_neighbours=3),
    sequence=SequenceConfig(trace_length=4, replay_period=2),
)
NOVELTY_TAGS = {"intrinsic/alpha", "intrinsic/alpha_above_1", "intrinsic/alpha_max", "intrinsic/rnd_error"}


def make_worker(
    env_id: str,
    num_lanes: int,
    seed: int = 0,
    agent: AgentConfig = AGENT,
    first_lane: int = 0,
    total_lanes: int = 8,
    life: int = 0,
) -> RolloutWorker:
    return RolloutWorker(
        env_id,
        agent,
        ActorConfig(),
        EnvironmentConfig(),
        first_lane,
        num_lanes,
        total_lanes,
        seed,
        reproducible=True,
        life=life,
    )


def make_networks(worker: RolloutWorker, seed: int, measured: bool = True) -> Agent57Networks:
    """Networks of the worker's shapes; ``measured`` turns RND on."""
    torch.manual_seed(seed)
    networks = Agent57Networks(worker.spec, NUM_POLICIES, worker.agent.network).requires_grad_(False)
    if measured:
        networks.rnd.normalizer.observe(torch.rand(50, *worker.spec.observation_shape) * worker.spec.observation_scale)
    return networks


def endless_arms(worker: RolloutWorker, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return rng.integers(NUM_POLICIES, size=(worker.num_lanes, 60)).tolist()


def without_seconds(metrics: dict[str, float]) -> dict[str, float]:
    return {tag: value for tag, value in metrics.items() if not tag.endswith("_seconds")}


def assert_identical(ours: Rollout, theirs: Rollout) -> None:
    """Bit for bit, but for the seconds it took."""
    assert len(ours.sequences) == len(theirs.sequences)
    for one, other in zip(ours.sequences, theirs.sequences, strict=True):
        for field in dataclasses.fields(Sequence):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), field.name)
    np.testing.assert_array_equal(ours.priorities, theirs.priorities)
    np.testing.assert_array_equal(ours.new_steps, theirs.new_steps)
    assert ours.episodes == theirs.episodes
    assert without_seconds(ours.metrics) == without_seconds(theirs.metrics)
    for name in ("env_steps", "arms_left", "weights_version"):
        assert getattr(ours, name) == getattr(theirs, name)


# --- Priorities --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [False, True])
def test_initial_priorities_of_a_shared_network_are_the_learners_at_equal_weights(head: bool) -> None:
    """Exactly, since targets bootstrap from the online network; sigma is what travelled with the weights."""
    loss = LossConfig(
        trace="soft_watkins",
        bootstrap="online",
        trust_region=1.0,
        normalize_td=True,
        td_scale="policy",
        mixture_eta=0.3,
    )
    network = dataclasses.replace(AGENT.network, kind="shared", policy_head=head)
    agent = dataclasses.replace(AGENT, loss=loss, network=network)
    worker = make_worker("CounterOfManyLengths-v1", 3, agent=agent)
    learner = Learner(agent, LearnerConfig(device="cpu"), worker.spec, seed=5)
    # Above the standard deviation of any batch, so that it counts there too.
    learner.networks.scales.td.copy_(torch.tensor([50.0, 80.0, 60.0]))
    worker.set_weights(1, learner.weights())
    rollout = worker.rollout(70, [[0] * 30, [1] * 30, [2] * 30])
    assert rollout.sequences[0].recurrent_state.shape == (1, 2, 8)
    batch = padded_batch(SequenceSpec.of(agent, worker.spec), len(rollout.sequences))
    for column, sequence in enumerate(rollout.sequences):
        fill_whole(batch, column, sequence)
    priorities = learner.update(batch).priorities
    np.testing.assert_allclose(rollout.priorities, priorities, rtol=1e-4)
    assert rollout.priorities.std() > 0.01 * rollout.priorities.mean() > 0


@pytest.mark.parametrize("env_id", ["tests.fakes:TinyMaze-v0", "CounterOfManyLengths-v1"])
@pytest.mark.parametrize("trace", ["retrace", "peng"])
def test_initial_priorities_are_what_the_learner_would_compute(env_id: str, trace: Any) -> None:
    """The learner's whole loss on the stored sequences, the acting networks standing for online and target ones."""
    agent = dataclasses.replace(AGENT, loss=LossConfig(trace=trace))
    worker = make_worker(env_id, 3, agent=agent)
    networks = make_networks(worker, 1)
    networks.scales.td.copy_(torch.tensor([0.5, 3.0]))
    networks.scales.intrinsic.fill_(0.25)
    worker.set_weights(1, flatten_weights(networks))
    rollout = worker.rollout(70, [[0] * 30, [1] * 30, [2] * 30])
    batch = padded_batch(SequenceSpec(worker.spec, 4, 8), len(rollout.sequences))
    for column, sequence in enumerate(rollout.sequences):
        fill_whole(batch, column, sequence)
    family = PolicyFamily.of(agent.family)
    nets = (networks.q_ext, networks.q_int)
    expected = fast_q_losses(
        nets,
        nets,
        batch.to_torch(),
        torch.tensor(family.betas, dtype=torch.float32),
        torch.tensor(family.discounts, dtype=torch.float32),
        agent.loss,
        networks.scales,
    ).priorities
    assert rollout.priorities.dtype == np.float32
    np.testing.assert_allclose(rollout.priorities, expected, rtol=1e-3, atol=1e-5)
    assert (rollout.priorities > 0).all()
    assert {sequence.policy_index for sequence in rollout.sequences} == {0, 1, 2}
    assert rollout.priorities.std() > 0.01 * rollout.priorities.mean()


# --- Counting ----------------------------------------------------------------------------------------------


def test_transitions_are_counted_and_resets_are_not() -> None:
    """Episodes of 3 transitions take 4 steps of a lane, of which the first brings no transition."""
    worker = make_worker("CounterOfThree-v0", 2)
    counts = [worker.rollout(steps, [[], []]).env_steps for steps in (1, 3, 4, 2, 7)]
    assert counts == [0, 6, 6, 2, 10]


def test_whenever_an_episode_ends_all_its_transitions_have_been_handed_out_once() -> None:
    worker = make_worker("CounterOfManyLengths-v1", 1)
    env_steps = new_steps = 0
    lengths = []
    for _ in range(150):
        rollout = worker.rollout(1, [[]])
        env_steps += rollout.env_steps
        new_steps += int(rollout.new_steps.sum())
        assert new_steps <= env_steps
        if rollout.episodes:
            lengths.append(rollout.episodes[0].length)
            assert new_steps == env_steps == sum(lengths)
    assert len(lengths) > 10


def test_episodes_report_returns_lengths_and_the_arms_really_played() -> None:
    """Counter pays 1, 2, ..., n: an undiscounted return of n (n + 1) / 2. Requests of any size cut the same."""
    worker = make_worker("CounterOfManyLengths-v1", 2, first_lane=3)
    arms = endless_arms(worker, 1)
    rollouts = [worker.rollout(steps, arms if i == 0 else [[], []]) for i, steps in enumerate([1, 2, 50, 7, 100])]
    epsilons = 0.4 ** (1 + 8 * np.arange(8) / 7)
    for lane in (3, 4):
        episodes = [episode for rollout in rollouts for episode in rollout.episodes if episode.lane == lane]
        assert len({episode.length for episode in episodes}) >= 4
        assert [episode.policy_index for episode in episodes] == arms[lane - 3][: len(episodes)]
        assert len({episode.policy_index for episode in episodes}) == NUM_POLICIES
        assert all(episode.extrinsic_return == episode.length * (episode.length + 1) / 2 for episode in episodes)
        # The epsilon is the lane's in the whole run, whichever arm it plays.
        assert all(episode.epsilon == pytest.approx(epsilons[lane], rel=1e-12) for episode in episodes)
        played = sum(episode.length + 1 for episode in episodes)
        assert 160 - 23 <= played <= 160


def test_intrinsic_returns_are_sums_of_stored_rewards() -> None:
    """With a trace longer than any episode, one sequence holds each episode whole."""
    agent = dataclasses.replace(AGENT, sequence=SequenceConfig(trace_length=30, replay_period=30))
    worker = make_worker("CounterOfManyLengths-v1", 2, agent=agent)
    worker.set_weights(1, flatten_weights(make_networks(worker, 0)))
    rollout = worker.rollout(120, endless_arms(worker, 2))
    assert len(rollout.sequences) == len(rollout.episodes) > 10
    for sequence, episode in zip(rollout.sequences, rollout.episodes, strict=True):
        assert episode.length == sequence.num_transitions
        assert episode.policy_index == sequence.policy_index
        assert episode.intrinsic_return == pytest.approx(sequence.intrinsic_rewards.sum(), rel=1e-5)
        assert episode.extrinsic_return == sequence.extrinsic_rewards.sum()
    assert max(episode.intrinsic_return for episode in rollout.episodes) > 0


def test_no_episode_is_reported_before_one_was_played() -> None:
    worker = make_worker("CounterOfThree-v0", 2)
    assert worker.rollout(1, [[2], [1]]).episodes == []
    assert worker.rollout(2, [[], []]).episodes == []
    episodes = worker.rollout(1, [[], []]).episodes
    assert [(episode.lane, episode.policy_index, episode.extrinsic_return) for episode in episodes] == [
        (0, 2, 6.0),
        (1, 1, 6.0),
    ]


# --- Arms --------------------------------------------------------------------------------------------------


def test_arms_are_played_in_order_and_the_last_one_again_when_they_run_out() -> None:
    worker = make_worker("CounterOfThree-v0", 2)
    first = worker.rollout(6, [[2, 0, 1], [1]])
    assert first.arms_left == [1, 0]
    assert first.metrics["actor/reused_arms"] == 1
    second = worker.rollout(14, [[], []])
    episodes = first.episodes + second.episodes
    assert [episode.policy_index for episode in episodes if episode.lane == 0] == [2, 0, 1, 1, 1]
    assert [episode.policy_index for episode in episodes if episode.lane == 1] == [1] * 5
    # Of the episodes that begin at steps 8, 12 and 16, lane 0 had one arm left and lane 1 none.
    assert second.metrics["actor/reused_arms"] == 2 + 3
    third = worker.rollout(5, [[0, 2], [2]])
    assert third.arms_left == [0, 0]
    fourth = worker.rollout(3, [[], []])
    assert [episode.policy_index for episode in third.episodes + fourth.episodes] == [0, 2, 2, 2]


def test_a_worker_without_arms_plays_policy_zero() -> None:
    rollout = make_worker("CounterOfThree-v0", 1).rollout(4, [[]])
    assert [episode.policy_index for episode in rollout.episodes] == [0]
    assert rollout.metrics["actor/reused_arms"] == 1


# --- Metrics -----------------------------------------------------------------------------------------------


def test_metrics_are_finite_and_novelty_is_absent_until_measured() -> None:
    worker = make_worker("tests.fakes:Chain-v0", 3)
    blind = worker.rollout(60, endless_arms(worker, 0)).metrics
    assert not NOVELTY_TAGS & set(blind)
    worker.set_weights(1, flatten_weights(make_networks(worker, 2)))
    seeing = worker.rollout(60, [[]] * 3).metrics
    assert set(seeing) >= NOVELTY_TAGS
    assert set(seeing) - NOVELTY_TAGS == set(blind)
    assert all(math.isfinite(value) for value in (*blind.values(), *seeing.values()))
    assert seeing["intrinsic/alpha_max"] > 1
    assert 0 < seeing["intrinsic/alpha_above_1"] < 1


def test_metrics_are_means_over_transitions() -> None:
    agent = dataclasses.replace(AGENT, sequence=SequenceConfig(trace_length=3, replay_period=3))
    worker = make_worker("CounterOfThree-v0", 2, agent=agent)
    worker.set_weights(1, flatten_weights(make_networks(worker, 3)))
    rollout = worker.rollout(40, [[], []])
    rewards = np.concatenate([sequence.intrinsic_rewards[1:] for sequence in rollout.sequences])
    assert len(rewards) == rollout.env_steps == 60
    assert rollout.metrics["intrinsic/reward"] == pytest.approx(rewards.mean(), rel=1e-5)
    assert worker.rollout(1, [[], []]).metrics.keys().isdisjoint(NOVELTY_TAGS | {"intrinsic/reward"})


# --- Saving and restoring ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "embeddings_in_use"),
    [("CounterOfManyLengths-v1", 2), ("tests.fakes:Chain-v0", 2), ("tests.fakes:TinyMaze-v0", 1)],
)
def test_a_restored_worker_continues_bit_for_bit(env_id: str, embeddings_in_use: int, tmp_path: Path) -> None:
    """Mid-episode, novelty on, two embeddings in use and a third waiting; through the files of a checkpoint."""
    worker = make_worker(env_id, 3, seed=1)
    worker.set_weights(1, flatten_weights(make_networks(worker, 1)))
    worker.rollout(41, endless_arms(worker, 3))
    for version in range(2, 60):
        worker.set_weights(version, flatten_weights(make_networks(worker, version)))
        worker.rollout(4, [[]] * 3)
        state = worker.state_dict()
        embeddings = state["lanes"]["novelty"]["embeddings"]
        if embeddings["waiting"] is not None and len(set(embeddings["slot_of_lane"])) == embeddings_in_use:
            break
    else:
        pytest.fail("no such moment came")
    assert not (state["lanes"]["starts"] | state["lanes"]["ends"]).all()
    save_tree(tmp_path, "worker", state)

    restored = make_worker(env_id, 3, seed=2)
    restored.rollout(7, [[1]] * 3)
    restored.load_state_dict(load_tree(tmp_path, "worker"))
    new_weights = flatten_weights(make_networks(worker, 99))
    for steps in (30, 25):
        ours, theirs = worker.rollout(steps, [[0, 2]] * 3), restored.rollout(steps, [[0, 2]] * 3)
        assert_identical(ours, theirs)
        assert len(ours.sequences) > 5
        assert set(ours.metrics) >= NOVELTY_TAGS
        worker.set_weights(100, new_weights)
        restored.set_weights(100, new_weights)


def test_a_replacement_takes_over_the_running_moments_and_nothing_else() -> None:
    """A worker of another size gives each lane the mean of the distance averages."""
    old, new, smaller = (make_worker("tests.fakes:Chain-v0", lanes, seed=lanes) for lanes in (3, 3, 1))
    old.set_weights(1, flatten_weights(make_networks(old, 1)))
    old.rollout(40, [[]] * 3)
    state = old.lanes.running_state()
    assert state["novelty"]["count"] == 120
    for worker in (new, smaller):
        worker.lanes.load_running_state(state)
        assert not worker.lanes.novelty.memory.sizes.any()
        taken = worker.lanes.running_state()
        for name, value in state["novelty"].items():
            np.testing.assert_array_equal(taken["novelty"][name], value)
        for name in ("distance_sum", "distance_weight"):
            if worker is new:
                np.testing.assert_array_equal(taken[name], state[name])
    mean = np.mean(state["distance_sum"] / state["distance_weight"])
    np.testing.assert_allclose(taken["distance_sum"] / taken["distance_weight"], [mean])
    assert (state["distance_weight"] > 1).all()


def test_equal_seeds_play_alike_and_others_do_not() -> None:
    one, same, other = (make_worker("tests.fakes:TinyMaze-v0", 2, seed) for seed in (5, 5, 6))
    first = one.rollout(40, [[], []])
    assert_identical(first, same.rollout(40, [[], []]))
    actions = [sequence.actions.tolist() for sequence in first.sequences]
    assert actions != [sequence.actions.tolist() for sequence in other.rollout(40, [[], []]).sequences]


def test_every_worker_has_a_seed_of_its_own() -> None:
    first, second = (make_worker("CounterOfManyLengths-v1", 2, first_lane=lane) for lane in (0, 2))
    tags = [
        {float(sequence.observations[0, 1]) for sequence in worker.rollout(60, [[], []]).sequences}
        for worker in (first, second)
    ]
    assert tags[0].isdisjoint(tags[1])


def test_another_life_plays_other_episodes_with_other_random_numbers() -> None:
    def played(seed: int, life: int) -> tuple[int, list[int]]:
        worker = make_worker("tests.fakes:Chain-v0", 4, seed, life=life)
        worker.set_weights(1, flatten_weights(make_networks(worker, seed=3)))
        sequences = worker.rollout(20, endless_arms(worker, 0)).sequences
        return worker.lanes.environments.state_dict()["history"]["seed"], [
            int(action) for sequence in sequences for action in sequence.actions
        ]

    first, again, second, third = (played(0, life) for life in (0, 0, 1, 2))
    assert first == again
    assert len({first[0], second[0], third[0]}) == 3
    assert first[1] != second[1] != third[1] != first[1]
