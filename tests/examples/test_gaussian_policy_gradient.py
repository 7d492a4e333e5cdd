"""REINFORCE with a Gaussian policy: its log-probability, its baseline, episodes of unequal length; and that it aims."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from examples.gaussian_policy_gradient import (
    MIN_LOG_STD,
    Args,
    GaussianPolicy,
    OneShotGame,
    advantages,
    log_prob,
    main,
    play,
    rewards_to_go,
)


class Counting(gym.Env):
    """An episode of `length` steps that observes its step number and pays it; actions in [-0.5, 0.5]."""

    def __init__(self, length: int, truncates: bool = False) -> None:
        self.length, self.truncates, self.taken = length, truncates, []
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = gym.spaces.Box(-0.5, 0.5, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.taken = []
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.taken.append(action.item())
        steps = len(self.taken)
        assert steps <= self.length, "stepped beyond its end"
        over = steps == self.length
        return np.float32([steps]), float(steps), over and not self.truncates, over and self.truncates, {}


@pytest.fixture(autouse=True)
def threads_restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_log_prob_is_that_of_a_diagonal_gaussian() -> None:
    torch.manual_seed(0)
    actions, mean, log_std = torch.randn(3, 20, 2, dtype=torch.float64)
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(actions).sum(-1)
    torch.testing.assert_close(log_prob(actions, mean, log_std), expected)


def test_log_prob_is_finite_where_the_density_is_zero() -> None:
    mean, log_std = torch.zeros(1, requires_grad=True), torch.tensor([-1.0], requires_grad=True)
    action = torch.tensor([40.0])
    deviation = (action - mean) / log_std.exp()
    density = torch.exp(-0.5 * deviation**2) / (log_std.exp() * math.sqrt(2 * math.pi))
    naive = torch.log(density).sum()
    assert naive == -math.inf
    assert torch.autograd.grad(naive, mean)[0].isnan().all()
    safe = log_prob(action, mean, log_std)
    assert safe.item() == pytest.approx(-0.5 * (40 * math.e) ** 2 + 1 - 0.5 * math.log(2 * math.pi), rel=1e-5)
    by_mean, by_log_std = torch.autograd.grad(safe, (mean, log_std))
    assert by_mean.item() == pytest.approx(40 * math.e**2, rel=1e-5)
    assert by_log_std.item() == pytest.approx((40 * math.e) ** 2 - 1, rel=1e-5)


@pytest.mark.parametrize("hidden", [(5, 5), (7,), ()])
def test_a_new_policy_is_the_standard_normal_in_every_state(hidden: tuple[int, ...]) -> None:
    mean, log_std = GaussianPolicy(3, 2, hidden)(100 * torch.randn(4, 9, 3))
    assert mean.shape == log_std.shape == (4, 9, 2)
    assert mean.abs().max() == log_std.abs().max() == 0


def test_the_deviation_stays_above_a_floor() -> None:
    policy = GaussianPolicy(1, 1, (5, 5))
    torch.nn.init.constant_(policy.head.bias, -50.0)
    assert policy(torch.ones(1))[1].item() == MIN_LOG_STD


@pytest.mark.parametrize(("action", "reward"), [(4.0, 2.0), (4.25, 2.0), (3.75, 2.0), (4.5, 1.0), (0.0, 0.125)])
def test_the_game_pays_zeta_b_over_the_distance(action: float, reward: float) -> None:
    game = OneShotGame(target=4.0, zeta=0.25, max_reward=2.0)
    assert game.reset()[0].tolist() == [1]
    _, found, terminated, truncated, _ = game.step(np.array([action]))
    assert (found, terminated, truncated) == (reward, True, False)


def test_rewards_are_discounted_by_the_time_until_they_come() -> None:
    rewards = torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 8.0]])
    assert rewards_to_go(rewards, 0.5).T.tolist() == [[3, 4, 4], [2, 4, 8]]
    assert rewards.T.tolist() == [[1, 2, 4], [0, 0, 8]]


def test_episodes_are_compared_with_those_that_still_play() -> None:
    """To go: (3, 4, 4), (2, 2) and 6; means over the living: 11/3, 3, 4."""
    rewards = torch.tensor([[1.0, 1.0, 6.0], [2.0, 2.0, 0.0], [4.0, 0.0, 0.0]])
    alive = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    expected = [[3 - 11 / 3, 2 - 11 / 3, 6 - 11 / 3], [1, -1, 0], [0, 0, 0]]
    torch.testing.assert_close(advantages(rewards, alive, 0.5), torch.tensor(expected))


def test_episodes_of_unequal_length_are_played_to_their_ends() -> None:
    torch.manual_seed(0)
    envs = [Counting(2), Counting(4, truncates=True)]
    observations, actions, rewards, alive = play(GaussianPolicy(1, 1, (5,)), envs, greedy=False)
    assert alive.T.tolist() == [[True, True, False, False], [True] * 4]
    assert rewards.T.tolist() == [[1, 2, 0, 0], [1, 2, 3, 4]]
    assert observations[:, 1, 0].tolist() == [0, 1, 2, 3]
    # The environment sees legal actions, the policy learns about its own.
    assert actions.abs().max() > 0.5
    assert envs[1].taken == pytest.approx(actions[:, 1, 0].clamp(-0.5, 0.5).tolist())
    again = play(GaussianPolicy(1, 1, (5,)), envs, greedy=True)
    assert again[1].abs().max() == 0


def test_pendulum_runs_and_its_policy_can_be_played_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings: dict[str, Any] = {"env": "Pendulum-v1", "batch_episodes": 2, "eval_episodes": 2, "updates": 2}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        main(Args(seed=seed, run_dir=str(tmp_path / name), **settings))
    a, b, c = (np.load(tmp_path / name / "policy.npz") for name in "abc")
    assert all(np.array_equal(a[key], b[key]) for key in a.files)
    assert not np.array_equal(a["head.bias"], c["head.bias"])
    assert {path.name for path in (tmp_path / "a").iterdir()} > {"curves.csv", "curves.png", "policy.npz"}
    trained = capsys.readouterr().out.splitlines()[1].split("eval/return ")[1].split(",")[0]
    main(Args(evaluate=str(tmp_path / "a" / "policy.npz"), **settings))
    assert capsys.readouterr().out.split()[-1] == trained


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"env": "CartPole-v1"}, "must be vectors"),
        ({"env": "NoSuchThing-v0"}, "doesn't exist"),
        ({"batch_episodes": 1}, "at least 2"),
        ({"evaluate": "no/such/policy.npz"}, "no policy of this"),
        ({"run_dir": "."}, "name a new folder"),
    ],
)
def test_mistakes_get_a_sentence_and_no_folder(
    changes: dict[str, Any], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(Args(**{"run_dir": str(tmp_path / "run"), **changes}))
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_mean_finds_the_target_and_the_deviation_closes(seed: int, tmp_path: Path) -> None:
    """The acceptance asks for 10 000 updates; 1 000 are enough."""
    args = Args(seed=seed, updates=1_000, eval_period=250, run_dir=str(tmp_path / "run"))
    main(args)
    rows = [row.split(",") for row in (tmp_path / "run" / "curves.csv").read_text().splitlines()]
    first, last = ({tag: float(value) for tag, step, value in rows if step == when} for when in ("1", "1000"))
    assert (first["policy/mean"], first["policy/std"]) == (0, 1)
    assert abs(last["policy/mean"] - args.target) < args.zeta
    assert last["policy/std"] < 0.5
