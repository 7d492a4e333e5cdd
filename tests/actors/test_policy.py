"""A policy by itself against the evaluator: the same steps, bit for bit, whoever steps the environment."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from actors.config import EvaluationConfig
from actors.environments.contract import EnvironmentConfig, environment_spec
from actors.evaluator import Evaluator
from actors.lanes import LaneStep
from actors.policy import Policy
from agent57.config import AgentConfig, IntrinsicConfig, NetworkConfig, PolicyFamilyConfig
from agent57.networks import Agent57Networks, flatten_weights
from agent57.novelty import make_networks

SMALL = NetworkConfig(
    conv_filters=(4, 8, 8), torso_size=16, lstm_size=8, head_size=8, embedding_size=4, embedding_hidden=8, rnd_size=8
)
AGENT = AgentConfig(PolicyFamilyConfig(num_policies=4, beta_max=0.5), SMALL, IntrinsicConfig(num_neighbours=3))


def with_novelty(novelty: str) -> AgentConfig:
    return dataclasses.replace(AGENT, intrinsic=dataclasses.replace(AGENT.intrinsic, novelty=novelty))


VARIANTS = {
    "vectors": ("CartPole-v1", AGENT),
    "images": ("ALE/Pong-v5", AGENT),
    "episodic novelty alone": ("CartPole-v1", with_novelty("episodic")),
    "life-long novelty alone": ("CartPole-v1", with_novelty("lifelong")),
    "counts over all episodes": ("CartPole-v1", with_novelty("recode")),
    "one network": ("CartPole-v1", dataclasses.replace(AGENT, network=dataclasses.replace(SMALL, kind="single"))),
}


def random_networks(env_id: str, agent: AgentConfig) -> Agent57Networks:
    """Networks whose RND inputs have been measured, so that both factors of novelty are alive."""
    spec = environment_spec(env_id, EnvironmentConfig())
    torch.manual_seed(3)
    networks = make_networks(agent, spec).requires_grad_(False)
    observations = torch.rand(64, *spec.observation_shape) * spec.observation_scale
    normalizer = (networks.embedding if agent.intrinsic.novelty == "recode" else networks.rnd).normalizer
    normalizer.observe(observations.to(getattr(torch, spec.observation_dtype)))
    networks.scales.intrinsic.fill_(2.0)
    return networks


@pytest.mark.parametrize("variant", VARIANTS)
def test_acts_as_the_evaluator_does(variant: str) -> None:
    """The same observations and rewards give the same novelty, values and actions, over several episodes."""
    env_id, agent = VARIANTS[variant]
    networks = random_networks(env_id, agent)
    evaluator = Evaluator(
        env_id, agent, EvaluationConfig(epsilon=0.0), EnvironmentConfig(max_frames=240), seed=1, num_lanes=1
    )
    evaluator.set_weights(1, flatten_weights(networks))
    steps: list[LaneStep] = []
    for _ in range(2):
        evaluator.begin_with([2])
        while evaluator.playing:
            evaluator.play(1000, lambda step, _: steps.append(step))
    policy = Policy(evaluator.lanes.environments.spec, agent, flatten_weights(networks), policy_index=2, epsilon=0.0)
    for step in steps:
        if step.starts[0]:
            policy.reset()
        action = policy.act(step.observations[0], float(step.extrinsic_rewards[0]))
        assert policy.intrinsic_reward == step.intrinsic_rewards[0]
        np.testing.assert_array_equal(policy.q, step.q[0])
        assert action == step.actions[0]
    assert sum(step.starts[0] for step in steps) == 2
    assert any(step.intrinsic_rewards[0] > 0 for step in steps)


def test_the_reward_and_the_episode_matter() -> None:
    """Both are inputs: a policy that forgot to pass them on would pass the test above only by luck."""
    weights = flatten_weights(random_networks("CartPole-v1", AGENT))
    spec = environment_spec("CartPole-v1", EnvironmentConfig())
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)

    def values(rewards: list[float], reset_at: int) -> np.ndarray:
        policy = Policy(spec, AGENT, weights, 1, epsilon=0.0)
        seen = []
        for t, observation in enumerate(observations):
            if t == reset_at:
                policy.reset()
            policy.act(observation, rewards[t])
            seen.append(policy.q)
        return np.stack(seen)

    usual = values([9.0, 1, 1, 1, 1], reset_at=0)
    np.testing.assert_array_equal(values([0.0, 1, 1, 1, 1], 0), usual)  # ignored at an episode's start
    assert not np.array_equal(values([9.0, 1, 0, 1, 1], 0)[2], usual[2])
    assert not np.array_equal(values([9.0, 1, 1, 1, 1], 3)[3], usual[3])


def test_epsilon_is_the_share_of_random_actions() -> None:
    weights = flatten_weights(random_networks("CartPole-v1", AGENT))
    spec = environment_spec("CartPole-v1", EnvironmentConfig())
    observation = np.zeros(4, np.float32)
    greedy = [Policy(spec, AGENT, weights, 0, epsilon=0.0, seed=seed).act(observation) for seed in range(300)]
    mixed = [Policy(spec, AGENT, weights, 0, epsilon=0.5, seed=seed).act(observation) for seed in range(300)]
    assert len(set(greedy)) == 1
    # Half are random, half of those of two actions differ: 75 of 300, standard deviation 7.5.
    assert 45 < sum(a != greedy[0] for a in mixed) < 105


@pytest.mark.parametrize(("argument", "value"), [("policy_index", 4), ("policy_index", -1), ("epsilon", 1.5)])
def test_impossible_policies_are_refused(argument: str, value: float) -> None:
    weights = flatten_weights(random_networks("CartPole-v1", AGENT))
    arguments = {"policy_index": 0} | {argument: value}
    with pytest.raises(ValueError, match=argument):
        Policy(environment_spec("CartPole-v1", EnvironmentConfig()), AGENT, weights, **arguments)  # type: ignore[arg-type]
