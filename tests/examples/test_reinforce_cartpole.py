"""REINFORCE by hand: gradients against autograd, rewards by time, the baseline at the limit; and that it balances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from examples import reinforce_cartpole
from examples.reinforce_cartpole import (
    POLICIES,
    Args,
    Polynomial,
    Sigmoid,
    Softmax,
    fitted_values,
    greedy_return,
    load,
    main,
    rewards_to_go,
    train,
)

BALANCING = {1: 0.5, 2: 1.0, 3: 10.0, 4: 10.0}
"""Log-odds of a push to the right by scaled place, speed, angle, angular speed: these hold the pole for 500 steps."""


def balancing_policy() -> tuple[Sigmoid, Polynomial]:
    polynomial = Polynomial(1)
    policy = Sigmoid(len(polynomial), 0.0, np.random.default_rng(0))
    for feature, weight in BALANCING.items():
        policy.weights[feature] = 10 * weight
    return policy, polynomial


@pytest.mark.parametrize("std", [0.01, 3.0])
@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_gradients_are_those_of_autograd(name: str, std: float) -> None:
    rng = np.random.default_rng(0)
    policy = POLICIES[name](6, std, rng)
    x, actions, gains = rng.normal(size=(40, 6)), rng.integers(2, size=40), rng.normal(size=40)
    weights = torch.tensor(policy.weights, requires_grad=True)
    scores = torch.tensor(x) @ weights.mT if name == "softmax" else torch.tensor(x) @ weights
    if name == "softmax":
        log_probs = torch.log_softmax(scores, dim=1)[torch.arange(40), torch.tensor(actions)]
    else:
        log_probs = torch.distributions.Bernoulli(logits=scores).log_prob(torch.tensor(actions).double())
    (log_probs * torch.tensor(gains)).sum().backward()
    np.testing.assert_allclose(policy.gradient(x, actions, gains), weights.grad.numpy(), rtol=1e-9, atol=1e-12)
    taken = policy.probabilities(x)[np.arange(40), actions]
    np.testing.assert_allclose(np.log(taken), log_probs.detach().numpy(), rtol=1e-9)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
@pytest.mark.filterwarnings("error")
def test_sure_policies_do_not_overflow(name: str) -> None:
    policy = POLICIES[name](2, 0.0, np.random.default_rng(0))
    policy.weights[...] = 1e4
    if name == "softmax":
        policy.weights[0] = -1e4
    x = np.array([[1.0, 1.0], [-1.0, -1.0]])
    np.testing.assert_array_equal(policy.probabilities(x), [[0, 1], [1, 0]])
    # Nothing is learned from what was certain, all of x from what was impossible.
    assert np.abs(policy.gradient(x, np.array([1, 0]), np.ones(2))).max() == 0
    assert np.abs(policy.gradient(x, np.array([0, 0]), np.ones(2))).tolist() == np.ones_like(policy.weights).tolist()


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_first_policies_are_undecided(name: str) -> None:
    polynomial = Polynomial(Args().degree)
    policy = POLICIES[name](len(polynomial), Args().init_std, np.random.default_rng(0))
    assert policy.weights.std() > 0
    for observation in np.random.default_rng(1).uniform(-1, 1, (50, 4)) * reinforce_cartpole.SCALE:
        assert policy.probabilities(polynomial(observation)) == pytest.approx([0.5, 0.5], abs=0.05)


def test_rewards_are_discounted_by_the_time_until_they_come() -> None:
    # 1 + 2/2 + 4/4, 2 + 4/2, 4; discounting by gamma^reward would give other numbers.
    assert rewards_to_go([1, 2, 4], 0.5).tolist() == [3, 4, 4]
    assert rewards_to_go([1, 2, 4], 0.5, after=8.0).tolist() == [4, 6, 8]
    # Rewards of 0 take time as well.
    assert rewards_to_go([0, 0, 0, 8], 0.5).tolist() == [1, 2, 4, 8]
    assert rewards_to_go([1] * 300, 0.99)[0] == pytest.approx((1 - 0.99**300) / 0.01)


def test_features_are_all_monomials_of_the_scaled_observation() -> None:
    place, speed, angle, spin = scaled = (0.5, 2.0, 3.0, 7.0)
    found = Polynomial(2)(np.array(scaled) * reinforce_cartpole.SCALE)
    squares = [0.25, 4.0, 9.0, 49.0]
    products = [place * speed, place * angle, place * spin, speed * angle, speed * spin, angle * spin]
    assert sorted(found) == pytest.approx(sorted([1, *scaled, *squares, *products]))
    assert len(Polynomial(3)) == 35


def test_the_baseline_finds_a_linear_value() -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(5_000, 4)), np.array([1.0, -2.0, 0.5, 30.0])
    noise = rng.normal(size=5_000)
    assert fitted_values(x, x @ weights + noise) == pytest.approx(weights, abs=0.1)
    # A feature that never varied gets no weight, and makes no singular matrix.
    x[:, 1] = 0
    assert fitted_values(x, x @ weights)[1] == 0


@pytest.mark.parametrize(("skill", "episodes", "factor"), [(0.0, 300, 1.5), (0.03, 100, 2.5)])
def test_the_baseline_takes_noise_from_the_gradient_and_leaves_its_mean(
    skill: float, episodes: int, factor: float
) -> None:
    """Variance over episodes, summed over weights; the baseline is fitted to other episodes than it is used on.

    Undecided policies last 22 steps, those with 0.03 of the balancing weights 290. Measured on 150 episodes: the
    variance falls to 1/2 and to 1/4.6; in between, at 45 steps, not at all.
    """
    policy, polynomial = balancing_policy()
    policy.weights *= skill
    rng, env = np.random.default_rng(0), gym.make("CartPole-v1")
    played = []
    for seed in range(episodes):
        (observation, _), over, x, actions = env.reset(seed=seed), False, [], []
        while not over:
            x.append(polynomial(observation))
            actions.append(int(rng.random() < policy.probabilities(x[-1])[1]))
            observation, _, terminated, truncated, _ = env.step(actions[-1])
            over = terminated or truncated
        played.append((np.array(x), np.array(actions), rewards_to_go([1.0] * len(x), 0.99)))
    first, second = played[: episodes // 2], played[episodes // 2 :]
    values = fitted_values(np.concatenate([x for x, _, _ in first]), np.concatenate([to_go for _, _, to_go in first]))
    without = np.array([policy.gradient(x, taken, to_go) for x, taken, to_go in second])
    with_it = np.array([policy.gradient(x, taken, to_go - x @ values) for x, taken, to_go in second])
    assert without.var(axis=0).sum() > factor * with_it.var(axis=0).sum()
    change = without - with_it
    assert np.abs(change.mean(axis=0)).max() > 0
    assert (np.abs(change.mean(axis=0)) < 4 * change.std(axis=0) / np.sqrt(len(change))).all()


@pytest.mark.parametrize("baseline", ["value", "none"])
def test_the_baseline_says_what_would_have_come_after_the_time_limit(
    baseline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three episodes of a policy that holds the pole until time is up; the first has no baseline yet."""
    seen = []

    def spy(rewards: list[float], gamma: float, after: float = 0.0) -> np.ndarray:
        seen.append((len(rewards), after))
        return rewards_to_go(rewards, gamma, after)

    monkeypatch.setattr(reinforce_cartpole, "rewards_to_go", spy)
    policy, polynomial = balancing_policy()
    args = Args(baseline=baseline, episodes=3, batch_episodes=1, learning_rate=0.0, eval_period=100)
    monkeypatch.setattr(reinforce_cartpole, "greedy_return", lambda *arguments: 0.0)
    train(args, policy, polynomial, np.random.default_rng(0), tmp_path)
    assert [length for length, _ in seen] == [500, 500, 500]
    afters = [after for _, after in seen]
    assert afters[0] == 0
    if baseline == "none":
        assert afters == [0, 0, 0]
    else:
        # A pole that never falls is worth at most 1 / (1 - gamma) = 100; a fit to 500 steps knows part of that.
        assert 30 < afters[1] < 130


def test_a_fallen_pole_is_worth_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(rewards: list[float], gamma: float, after: float = 0.0) -> np.ndarray:
        seen.append(after)
        return rewards_to_go(rewards, gamma, after)

    monkeypatch.setattr(reinforce_cartpole, "rewards_to_go", spy)
    monkeypatch.setattr(reinforce_cartpole, "greedy_return", lambda *arguments: 0.0)
    polynomial = Polynomial(1)
    policy = Softmax(len(polynomial), 0.0, np.random.default_rng(0))
    train(Args(episodes=4, batch_episodes=1), policy, polynomial, np.random.default_rng(0), tmp_path)
    assert seen == [0, 0, 0, 0]


def test_greedy_play_takes_the_likelier_action() -> None:
    policy, polynomial = balancing_policy()
    assert greedy_return(policy, polynomial, 3) == 500
    policy.weights *= -1
    assert greedy_return(policy, polynomial, 3) < 20


def test_a_short_training_learns_and_stops_when_solved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random play holds the pole for 22 steps on average."""
    arguments: dict[str, Any] = {"episodes": 600, "solved_at": 120.0, "eval_period": 1_000}
    main(Args(run_dir=str(tmp_path / "run"), **arguments))
    output = capsys.readouterr().out
    trained = int(output.split("episode ")[1].split(":")[0])
    assert 100 < trained < 600
    assert {path.name for path in (tmp_path / "run").iterdir()} > {"curves.csv", "curves.png", "policy.npz"}
    saved = str(tmp_path / "run" / "policy.npz")
    main(Args(evaluate=saved))
    assert capsys.readouterr().out.split()[-1] == output.split()[-1]
    with pytest.raises(SystemExit) as stopped:
        main(Args(evaluate=saved, policy="sigmoid"))
    assert stopped.value.code == 2
    assert "no weights of this --policy" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        main(Args(seed=seed, episodes=20, eval_period=1_000, run_dir=str(tmp_path / name)))
    a, b, c = (np.load(tmp_path / name / "policy.npz")["weights"] for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_cartpole_is_solved_within_5_000_episodes(name: str, seed: int, tmp_path: Path) -> None:
    """Greedily over 100 episodes, and as it explored over the last 100 of training."""
    args = Args(policy=name, seed=seed, run_dir=str(tmp_path / "run"))
    assert args.episodes <= 5_000
    main(args)
    polynomial = Polynomial(args.degree)
    policy = POLICIES[name](len(polynomial), 0.0, np.random.default_rng(0))
    load(policy, str(tmp_path / "run" / "policy.npz"))
    assert greedy_return(policy, polynomial, 100) >= 475
    rows = [row.split(",") for row in (tmp_path / "run" / "curves.csv").read_text().splitlines()]
    returns = [float(value) for tag, _, value in rows if tag == "train/return"]
    assert np.mean(returns[-100:]) >= 475
