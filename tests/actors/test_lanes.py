"""Acting on scripted environments: what a lane is told, does and reports, recomputed by slow oracles."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from actors.environments.contract import EnvironmentStep, LaneEnvironments
from actors.lanes import Lanes, LaneStep
from agent57.config import AgentConfig, IntrinsicConfig, LossConfig, NetworkConfig, PolicyFamilyConfig
from agent57.networks import Agent57Networks, flatten_weights
from agent57.structures import EXTRINSIC, INTRINSIC, NO_ACTION, EnvironmentSpec
from tests import oracles

SPEC = EnvironmentSpec((4,), "float32", 1.0, 3)
NUM_POLICIES = 4
# No value equals its neighbour's or its default: one that ends up in another's place shows.
INTRINSIC_CONFIG = IntrinsicConfig(
    num_neighbours=3,
    memory_capacity=6,
    kernel_epsilon=0.02,
    cluster_distance=0.1,
    pseudo_count=0.3,
    max_similarity=1.6,
    distance_decay=0.9,
    max_lifelong_scale=1.5,
)
AGENT = AgentConfig(
    family=PolicyFamilyConfig(num_policies=NUM_POLICIES, beta_max=1.0),
    network=NetworkConfig("mlp", torso_size=16, lstm_size=8, head_size=8, embedding_size=4, rnd_size=8),
    intrinsic=INTRINSIC_CONFIG,
)


@dataclasses.dataclass
class Script:
    """What arrives at step t in lane l, arrays [S, L, ...]; on the first step of an episode the reward is a lure."""

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        return np.concatenate([np.ones_like(self.terminated[:1]), (self.terminated | self.truncated)[:-1]])

    def of_lane(self, lane: int) -> Script:
        return Script(**{name: array[:, lane : lane + 1] for name, array in vars(self).items()})


def random_script(seed: int, steps: int, num_lanes: int) -> Script:
    """Observations out of a dozen (so that lanes revisit), random rewards, episodes of at least one transition."""
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(12, *SPEC.observation_shape)).astype(np.float32)
    ends = np.zeros((steps, num_lanes), np.bool_)
    for t in range(1, steps):
        ends[t] = (rng.random(num_lanes) < 0.12) & ~ends[t - 1]
    terminated = ends & (rng.random(ends.shape) < 0.5)
    rewards = rng.normal(size=ends.shape).astype(np.float32)
    return Script(places[rng.integers(12, size=ends.shape)], rewards, terminated, ends & ~terminated)


def steady_script(observations: np.ndarray, ends: dict[int, list[int]] | None = None) -> Script:
    """Rewards of 0; lane l's episodes are truncated at the steps ``ends[l]``."""
    truncated = np.zeros(observations.shape[:2], np.bool_)
    for lane, steps in (ends or {}).items():
        truncated[steps, lane] = True
    zeros = np.zeros(truncated.shape, np.float32)
    return Script(observations.astype(np.float32), zeros, np.zeros_like(truncated), truncated)


class Scripted(LaneEnvironments):
    """Plays a script, whatever the actions are."""

    def __init__(self, script: Script) -> None:
        self.spec, self.script = SPEC, script

    def reset(self) -> np.ndarray:
        self._t = 0
        return self.script.observations[0].copy()

    def step(self, actions: np.ndarray) -> EnvironmentStep:
        self._t += 1
        t = self._t % len(self.script.rewards)
        return EnvironmentStep(*(array[t].copy() for array in vars(self.script).values()))


def make_networks(seed: int, q_scale: float = 1.0, measured: np.ndarray | None = None) -> Agent57Networks:
    """Networks whose Q-values are ``q_scale`` times the initial ones; ``measured`` observations turn RND on.

    They see intrinsic rewards through a scale of 0.5.
    """
    torch.manual_seed(seed)
    networks = Agent57Networks(SPEC, NUM_POLICIES, AGENT.network).requires_grad_(False)
    for q_network in (networks.q_ext, networks.q_int):
        for head in (q_network.value_head, q_network.advantage_head):
            head[-1].weight.mul_(q_scale)
            head[-1].bias.mul_(q_scale)
    networks.scales.intrinsic.fill_(0.5)
    if measured is not None:
        for network in (networks.rnd, networks.embedding):
            network.normalizer.observe(torch.from_numpy(measured.reshape(-1, *SPEC.observation_shape)))
    return networks


def make_lanes(
    script: Script,
    epsilons: Any,
    networks: Agent57Networks | None = None,
    agent: AgentConfig = AGENT,
    seed: int = 0,
    torso_dtype: str = "float32",
) -> Lanes:
    lanes = Lanes(agent, Scripted(script), np.asarray(epsilons, np.float64), seed, torso_dtype)
    if networks is not None:
        lanes.set_weights(1, flatten_weights(networks))
    return lanes


def network_inputs(step: LaneStep) -> tuple[torch.Tensor, ...]:
    """What the Q-networks see of a step, apart from policy and recurrent state; each [L, ...]."""
    arrays = (step.observations, step.previous_actions, step.extrinsic_rewards, step.intrinsic_rewards / 0.5)
    return tuple(map(torch.from_numpy, arrays))


def play(lanes: Lanes, steps: int) -> list[LaneStep]:
    """Each episode plays the next policy in turn, lane by lane."""
    episodes = [0] * lanes.num_lanes

    def choose(lane: int) -> int:
        episodes[lane] += 1
        return (lane + episodes[lane]) % NUM_POLICIES

    return [lanes.step(choose) for _ in range(steps)]


def watch_embeddings(lanes: Lanes) -> list[np.ndarray]:
    """The embeddings [L, E] that will be handed to the episodic memory, step by step."""
    seen: list[np.ndarray] = []
    bonus = lanes.novelty.memory.bonus
    lanes.novelty.memory.bonus = lambda embeddings: (seen.append(embeddings.copy()), bonus(embeddings))[1]
    return seen


# --- Actions and their probabilities -----------------------------------------------------------------------


@pytest.mark.parametrize("mix", ["rescaled", "linear"])
def test_behaviour_probs_are_the_epsilon_greedy_distribution_at_the_action(mix: Any) -> None:
    """Whatever the policy, the lane's epsilon holds; Q-values are large, so that the two mixtures disagree."""
    epsilons = [1.0, 0.4, 0.05, 0.3]
    agent = dataclasses.replace(AGENT, loss=LossConfig(mix=mix, rescale_epsilon=0.01))
    script = random_script(0, 60, 4)
    steps = play(make_lanes(script, epsilons, make_networks(2, q_scale=100), agent), 60)
    betas = oracles.betas(NUM_POLICIES, AGENT.family.beta_max)
    greedy_draws = other_draws = disagreements = 0
    for step in steps:
        assert step.behaviour_probs.dtype == np.float32
        for lane, epsilon in enumerate(epsilons):
            beta = betas[step.policy_index[lane]]
            combined = {
                name: [oracles.combine_q(e, i, beta, name, 0.01) for e, i in step.q[lane].T.tolist()]
                for name in ("rescaled", "linear")
            }
            expected = oracles.epsilon_greedy(combined[mix], epsilon)[step.actions[lane]]
            assert step.behaviour_probs[lane] == pytest.approx(expected, rel=1e-6)
            is_greedy = step.actions[lane] == int(np.argmax(combined[mix]))
            greedy_draws, other_draws = greedy_draws + is_greedy, other_draws + (not is_greedy)
            disagreements += int(np.argmax(combined["rescaled"]) != np.argmax(combined["linear"]))
    assert min(greedy_draws, other_draws, disagreements) > 20


def test_actions_are_as_frequent_as_epsilon_says() -> None:
    """The greedy action is always 2; a random draw may be greedy as well, and then counts as 1 - eps + eps / 3."""
    networks = make_networks(0)
    for head in (networks.q_ext.advantage_head, networks.q_int.advantage_head):
        head[-1].weight.zero_()
        head[-1].bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
    epsilons = np.repeat([1.0, 0.6, 0.2, 0.0], 32)
    lanes = make_lanes(random_script(0, 50, 128), epsilons, networks)
    steps = play(lanes, 50)
    actions = np.stack([step.actions for step in steps])
    for epsilon in (1.0, 0.6, 0.2, 0.0):
        expected = [epsilon / 3, epsilon / 3, 1 - epsilon + epsilon / 3]
        frequencies = np.bincount(actions[:, epsilons == epsilon].ravel(), minlength=3) / (50 * 32)
        # 5 standard deviations of a frequency among 1600 draws are at most 0.0625.
        np.testing.assert_allclose(frequencies, expected, atol=0.0625 if epsilon else 0)
        probs = np.stack([step.behaviour_probs for step in steps])[:, epsilons == epsilon]
        np.testing.assert_allclose(probs, np.array(expected)[actions[:, epsilons == epsilon]], rtol=1e-6)
    assert all(set(row[:32]) == {0, 1, 2} for row in actions), "lanes do not draw independently"


def test_a_shared_network_acts_by_its_policy_head_not_by_its_values() -> None:
    """Values want action 0, the head of policy j wants action j % 3; without a head the values are followed."""
    for head in (True, False):
        config = dataclasses.replace(AGENT.network, kind="shared", policy_head=head)
        agent = dataclasses.replace(AGENT, network=config)
        networks = Agent57Networks(SPEC, NUM_POLICIES, config).requires_grad_(False)
        for layers in (networks.q.advantage_head, networks.q.policy_head):
            if layers is not None:
                layers[-1].weight.zero_()
                layers[-1].bias.zero_()
        networks.q.advantage_head[-1].bias.view(2, NUM_POLICIES, -1)[..., 0] = 1.0
        if head:
            networks.q.policy_head[-1].bias.view(NUM_POLICIES, -1)[range(4), [0, 1, 2, 0]] = 1.0
        lanes = make_lanes(random_script(0, 40, 3), [0.0, 0.3, 0.3], agent=agent)
        lanes.set_weights(1, flatten_weights(networks))
        for step in play(lanes, 40):
            wanted = step.policy_index % 3 if head else np.zeros(3, np.int64)
            np.testing.assert_array_equal(step.actions[:1], wanted[:1])
            for lane in (1, 2):
                expected = [0.1 + (0.7 if action == wanted[lane] else 0.0) for action in range(3)]
                assert step.behaviour_probs[lane] == pytest.approx(expected[step.actions[lane]], rel=1e-6)
            assert step.recurrent_state.shape[0] == 1
            # What is shown are the values of the policy that plays.
            np.testing.assert_allclose(step.q.argmax(-1), 0)
            assert step.values.shape == (3, 2 if head else 1, NUM_POLICIES, 3)


# --- Episodes ----------------------------------------------------------------------------------------------


def test_an_episode_starts_from_nothing_and_keeps_its_policy() -> None:
    script = random_script(1, 80, 3)
    lanes = make_lanes(script, [0.5] * 3)
    calls: list[list[int]] = []
    answers = iter(np.random.default_rng(0).integers(NUM_POLICIES, size=300).tolist())
    current = [-1] * 3

    def choose(lane: int) -> int:
        calls[-1].append(lane)
        current[lane] = next(answers)
        return current[lane]

    previous_actions = np.zeros(3, np.int64)
    for t in range(80):
        calls.append([])
        step = lanes.step(choose)
        starts = script.starts[t]
        np.testing.assert_array_equal(step.starts, starts)
        np.testing.assert_array_equal(step.ends, script.terminated[t] | script.truncated[t])
        np.testing.assert_array_equal(step.terminated, script.terminated[t])
        np.testing.assert_array_equal(step.observations, script.observations[t])
        assert calls[-1] == np.flatnonzero(starts).tolist()
        assert step.policy_index.tolist() == current
        assert not step.recurrent_state[:, :, starts].any()
        assert step.recurrent_state[:, :, ~starts].any(-1).all()
        assert (step.previous_actions[starts] == NO_ACTION).all()
        assert not step.extrinsic_rewards[starts].any()
        assert not step.intrinsic_rewards[starts].any()
        np.testing.assert_array_equal(step.extrinsic_rewards[~starts], script.rewards[t][~starts])
        assert (lanes.novelty.memory.sizes[starts] == 1).all()
        np.testing.assert_array_equal(step.previous_actions[~starts], previous_actions[~starts])
        previous_actions = step.actions
    assert script.starts.sum() > 15


def test_restart_abandons_every_episode() -> None:
    script = random_script(2, 30, 3)
    lanes = make_lanes(script, [0.5] * 3)
    first = play(lanes, 1)[0]
    play(lanes, 5)
    lanes.restart()
    again = play(lanes, 1)[0]
    assert again.starts.all()
    assert not again.recurrent_state.any()
    assert (again.previous_actions == NO_ACTION).all()
    assert lanes.novelty.memory.sizes.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(again.q, first.q)


# --- Networks ----------------------------------------------------------------------------------------------


def test_q_values_and_states_come_from_unrolling_each_episode() -> None:
    """`forward` over the inputs reported for one lane, from zeros at each episode's start, finds the same."""
    script = random_script(3, 60, 3)
    networks = make_networks(2, q_scale=10, measured=script.observations)
    steps = play(make_lanes(script, [0.5] * 3, networks), 60)
    for lane in range(3):
        for net, network in ((EXTRINSIC, networks.q_ext), (INTRINSIC, networks.q_int)):
            for step in steps:
                if step.starts[lane]:
                    h = c = torch.zeros(1, AGENT.network.lstm_size)
                    policy = torch.from_numpy(step.policy_index[lane : lane + 1])
                np.testing.assert_allclose(step.recurrent_state[net, :, lane], [h[0], c[0]], rtol=1e-3, atol=1e-5)
                inputs = (array[None, lane : lane + 1] for array in network_inputs(step))
                q, (h, c) = network(*inputs, policy, (h, c))
                np.testing.assert_allclose(step.q[lane, net], q[0, 0], rtol=1e-3, atol=1e-5)


def test_a_lane_alone_acts_as_it_does_among_others() -> None:
    """Greedy lanes, so that no random number differs; RND off, since its running moments are shared by design."""
    script = random_script(4, 60, 4)
    networks = make_networks(3, q_scale=10)
    together = play(make_lanes(script, [0.0] * 4, networks), 60)
    for lane in range(4):
        lanes = make_lanes(script.of_lane(lane), [0.0], networks)
        episodes = iter([step.policy_index[lane] for step in together if step.starts[lane]])
        for t, expected in enumerate(together):
            alone = lanes.step(lambda _, episodes=episodes: int(next(episodes)))
            np.testing.assert_allclose(alone.q[0], expected.q[lane], rtol=1e-3, atol=1e-5, err_msg=f"step {t}")
            np.testing.assert_allclose(alone.intrinsic_rewards[0], expected.intrinsic_rewards[lane], rtol=1e-3)
            assert alone.actions[0] == expected.actions[lane]


def test_bfloat16_torsos_act_nearly_the_same() -> None:
    script = random_script(5, 10, 3)
    networks = make_networks(4, q_scale=10)
    exact = play(make_lanes(script, [0.2] * 3, networks), 1)[0]
    coarse = play(make_lanes(script, [0.2] * 3, networks, torso_dtype="bfloat16"), 1)[0]
    assert coarse.q.dtype == coarse.behaviour_probs.dtype == np.float32
    assert 0 < np.abs(coarse.q - exact.q).max() < 0.05 * np.abs(exact.q).max()


def test_new_weights_reach_q_networks_at_once_and_embeddings_with_the_next_episode() -> None:
    """An embedding's input moments are part of its version."""
    script = steady_script(np.random.default_rng(0).normal(size=(16, 3, 4)), ends={0: [13], 1: [4, 8], 2: [10]})
    versions = [make_networks(seed, measured=script.observations[seed : seed + 3]) for seed in (0, 4, 8)]
    lanes = make_lanes(script, [0.3] * 3, versions[0])
    seen = watch_embeddings(lanes)
    arrives = {0: 0, 3: 1, 6: 2}  # before these steps come these versions
    # Lanes change version as their episodes begin; version 2 waits until lane 0 has left version 0.
    moves = {5: (1, 1), 9: (1, 1), 11: (2, 1), 14: (0, 2)}  # at these steps, lane and version
    version_of_lane = [0, 0, 0]
    for t in range(16):
        if t in moves:
            moved, version = moves[t]
            version_of_lane[moved] = version
        if t in arrives:
            newest = arrives[t]
            lanes.set_weights(newest, flatten_weights(versions[newest]))
        step = play(lanes, 1)[0]
        assert lanes.weights_version == newest
        for net, network in ((EXTRINSIC, versions[newest].q_ext), (INTRINSIC, versions[newest].q_int)):
            state = tuple(torch.from_numpy(step.recurrent_state[net]))
            q, _ = network.step(*network_inputs(step), torch.from_numpy(step.policy_index), state)
            np.testing.assert_allclose(step.q[:, net], q, rtol=1e-4, atol=1e-6)
        x = torch.from_numpy(step.observations)
        expected = [versions[version].embedding(x[lane : lane + 1])[0] for lane, version in enumerate(version_of_lane)]
        np.testing.assert_allclose(seen[-1], np.stack(expected), rtol=1e-4, atol=1e-6)


# --- Intrinsic reward --------------------------------------------------------------------------------------


def test_intrinsic_rewards_agree_with_the_oracles() -> None:
    """Every step, final observations included: the k-NN bonus of its lane times clip(alpha, 1, L); 0 at a start."""
    script = random_script(6, 80, 3)
    networks = make_networks(5, measured=script.observations[:40])
    steps = play(make_lanes(script, [0.5] * 3, networks), 80)
    errors = [networks.rnd(torch.from_numpy(step.observations)).numpy() for step in steps]
    alphas = np.array(oracles.lifelong_multipliers(errors))
    names = ("num_neighbours", "kernel_epsilon", "cluster_distance", "pseudo_count", "max_similarity", "distance_decay")
    options = {name: getattr(INTRINSIC_CONFIG, name) for name in names}
    memories = [oracles.EpisodicMemory(INTRINSIC_CONFIG.memory_capacity, **options) for _ in range(3)]
    paid = 0
    for t, step in enumerate(steps):
        embeddings = networks.embedding(torch.from_numpy(step.observations)).numpy()
        np.testing.assert_allclose(step.parts["rnd_error"], errors[t], rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(step.parts["alpha"], alphas[t], rtol=1e-3, atol=1e-3)
        for lane in range(3):
            if step.starts[lane]:
                memories[lane].reset()
            episodic = memories[lane].bonus(embeddings[lane])
            expected = 0.0 if step.starts[lane] else episodic * min(max(alphas[t][lane], 1.0), 1.5)
            assert step.parts["episodic"][lane] == pytest.approx(episodic, rel=5e-3)
            assert step.intrinsic_rewards[lane] == pytest.approx(expected, rel=5e-3)
            paid += expected > 0
    assert step.intrinsic_rewards.dtype == np.float32
    # The case is not trivial: rewards are paid and refused, alpha crosses both of its bounds.
    assert 30 < paid < 200
    assert alphas.min() < 0.9
    assert ((alphas > 1.1) & (alphas < 1.4)).any()
    assert alphas.max() > 1.6


def test_without_measured_rnd_inputs_novelty_is_off() -> None:
    step = play(make_lanes(random_script(7, 20, 2), [0.5] * 2), 15)[-1]
    assert np.isnan(step.parts["alpha"]).all()
    assert np.isnan(step.parts["rnd_error"]).all()
    np.testing.assert_array_equal(step.intrinsic_rewards, np.where(step.starts, 0, step.parts["episodic"]))
    assert np.isfinite(step.intrinsic_rewards).all()


def train_predictor(networks: Agent57Networks, observations: np.ndarray) -> None:
    networks.rnd.predictor.requires_grad_(True)
    optimizer = torch.optim.Adam(networks.rnd.predictor.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        networks.rnd(torch.from_numpy(observations)).mean().backward()
        optimizer.step()
    networks.rnd.predictor.requires_grad_(False)


def test_novelty_rises_on_the_unfamiliar_and_falls_once_it_is_learned() -> None:
    rng = np.random.default_rng(1)
    familiar = rng.normal(size=(8, 4)).astype(np.float32)
    unfamiliar = np.array([3.0, -3.0, 3.0, 3.0], np.float32)
    observations = familiar[rng.integers(8, size=(60, 2))]
    observations[29, 1] = observations[59, 1] = unfamiliar
    networks = make_networks(6, measured=familiar)
    train_predictor(networks, familiar)
    lanes = make_lanes(steady_script(observations), [0.1] * 2, networks)
    steps = play(lanes, 30)
    assert steps[29].parts["alpha"][1] > 5
    assert abs(steps[29].parts["alpha"][0]) < 1.5
    expected = steps[29].parts["episodic"] * [1.0, 1.5]
    np.testing.assert_allclose(steps[29].intrinsic_rewards, expected, rtol=1e-5)
    assert expected[1] > 0
    train_predictor(networks, np.concatenate([familiar, unfamiliar[None]]))
    lanes.set_weights(2, flatten_weights(networks))
    assert (play(lanes, 30)[29].parts["alpha"] < 1.05).all()
