"""DDPG: noise, action bounds, ends of episodes, the four updates; and that it swings the pendulum up."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from examples import ddpg_pendulum
from examples.ddpg_pendulum import Agent, Args, OrnsteinUhlenbeck, Replay, greedy_return, main, to_bounds, train

TRUNCATING = "Truncating-v0"


class Truncating(gym.Env):
    """Observes its step number; ends by time after 3 steps, or by itself when the second of an episode is -1."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = gym.spaces.Box(np.float32([-3, 10]), np.float32([1, 20]))
        self.steps, self.episodes = 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.steps, self.episodes = 0, self.episodes + 1
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        self.steps += 1
        terminated = self.episodes % 2 == 0 and self.steps == 2
        return np.float32([self.steps]), 1.0, terminated, self.steps == 3, {}


@pytest.fixture
def truncating() -> Iterator[str]:
    gym.register(TRUNCATING, Truncating)
    yield TRUNCATING
    del gym.registry[TRUNCATING]


@pytest.fixture(autouse=True)
def threads_restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def batch(size: int = 32) -> list[torch.Tensor]:
    """Observations, actions, rewards, next observations, terminated."""
    ones = torch.rand(size).round()
    return [torch.randn(size, 3), torch.rand(size, 1) * 2 - 1, torch.randn(size), torch.randn(size, 3), ones]


def test_the_noise_has_the_spread_and_the_memory_of_its_equation() -> None:
    """x' = (1 - theta) x + sigma N: variance sigma^2 / (1 - (1 - theta)^2), correlation (1 - theta)^k after k steps."""
    noise = OrnsteinUhlenbeck(2, theta=0.15, sigma=0.2, rng=np.random.default_rng(0))
    assert np.abs(noise.sample()).max() < 1  # From 0 on, not from its stationary distribution.
    samples = np.array([noise.sample() for _ in range(40_000)])
    assert samples.std(axis=0) == pytest.approx(0.2 / np.sqrt(1 - 0.85**2), rel=0.05)
    for lag in (1, 5):
        assert np.corrcoef(samples[:-lag, 0], samples[lag:, 0])[0, 1] == pytest.approx(0.85**lag, abs=0.05)
    assert abs(np.corrcoef(samples.T)[0, 1]) < 0.1


def test_actions_reach_both_bounds_of_each_dimension() -> None:
    space = Truncating().action_space
    assert to_bounds(np.float32([-1, -1]), space).tolist() == [-3, 10]
    assert to_bounds(np.float32([1, 1]), space).tolist() == [1, 20]
    assert to_bounds(np.float32([0, 0.5]), space).tolist() == [-1, 17.5]
    torque = to_bounds(np.ones(1), gym.make("Pendulum-v1").action_space)
    assert (torque.tolist(), torque.dtype) == ([2.0], np.float32)


def test_the_replay_keeps_the_newest_and_draws_each_of_them() -> None:
    replay = Replay(4, 1, 1, np.random.default_rng(0))
    replay.add(np.zeros(1), np.zeros(1), 0.0, np.zeros(1), False)
    assert replay.sample(5)[2].tolist() == [0] * 5
    for number in range(1, 6):
        replay.add(np.full(1, number), np.full(1, -number), 10 * number, np.full(1, number + 1), number == 5)
    observations, actions, rewards, following, terminated = replay.sample(4_000)
    numbers, counts = rewards.unique(return_counts=True)
    assert numbers.tolist() == [20, 30, 40, 50]
    assert counts.min() > 850
    assert torch.equal(observations, rewards[:, None] / 10)
    assert torch.equal(actions, -observations)
    assert torch.equal(following, observations + 1)
    assert torch.equal(terminated, (rewards == 50).float())


def test_first_layers_are_drawn_by_fan_in_and_last_ones_small() -> None:
    torch.manual_seed(0)
    agent = Agent(3, 1, Args())
    layers = {
        0.003: agent.actor[4],
        0.0003: agent.critic.last,
        3**-0.5: agent.critic.first,
        400**-0.5: agent.actor[2],
        401**-0.5: agent.critic.second,
    }
    for bound, layer in layers.items():
        largest = max(parameter.abs().max().item() for parameter in layer.parameters())
        assert 0.9 * bound < largest <= bound
    assert [p.shape[0] for p in (agent.actor[0].weight, agent.actor[2].weight)] == [400, 300]


def test_only_a_terminal_state_is_worth_nothing() -> None:
    torch.manual_seed(0)
    agent = Agent(3, 1, Args(gamma=0.5))
    torch.nn.init.constant_(agent.target_critic.last.bias, 8.0)
    torch.nn.init.zeros_(agent.target_critic.last.weight)
    found = agent.targets(torch.tensor([1.0, 1.0]), torch.randn(2, 3), torch.tensor([0.0, 1.0]))
    assert found.tolist() == [5.0, 1.0]


def test_time_running_out_is_stored_as_a_transition_that_goes_on(
    truncating: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = []
    monkeypatch.setattr(Replay, "add", lambda self, *transition: stored.append(transition))
    monkeypatch.setattr(Replay, "added", 0, raising=False)
    args = Args(env=truncating, steps=7, eval_period=100, eval_episodes=1)
    train(args, gym.make(truncating), Agent(1, 2, args), tmp_path)
    seen = [(o.item(), following.item(), bool(terminated)) for o, _, _, following, terminated in stored]
    by_time, by_itself = [(0, 1, False), (1, 2, False), (2, 3, False)], [(0, 1, False), (1, 2, True)]
    assert seen == [*by_time, *by_itself, *by_time[:2]]


def test_the_actor_climbs_the_critic() -> None:
    torch.manual_seed(0)
    agent = Agent(3, 1, Args(actor_lr=1e-3, critic_lr=0.0))
    fixed = batch()

    def value() -> float:
        return agent.critic(fixed[0], agent.actor(fixed[0])).mean().item()

    before = value()
    for _ in range(20):
        agent.learn(fixed)
    assert value() > before


def test_targets_follow_by_tau() -> None:
    torch.manual_seed(0)
    agent = Agent(3, 1, Args(tau=0.25))
    old = copy.deepcopy((agent.target_actor.state_dict(), agent.target_critic.state_dict()))
    agent.learn(batch())
    for before, online, target in zip(
        old, (agent.actor, agent.critic), (agent.target_actor, agent.target_critic), strict=True
    ):
        for name, value in target.state_dict().items():
            torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * online.state_dict()[name])
            assert not torch.equal(value, before[name])


def test_the_critic_is_regressed_on_the_targets_with_weight_decay() -> None:
    """One Adam step from zero moments moves each parameter by lr against the sign of its whole gradient."""
    torch.manual_seed(0)
    agent, rate, decay = Agent(3, 1, Args()), 1e-3, 1e-2
    data = batch()
    observations, actions, rewards, following, terminated = data
    reference = copy.deepcopy(agent.critic)
    goal = agent.targets(rewards, following, terminated)
    ((reference(observations, actions) - goal) ** 2).mean().backward()
    agent.learn(data)
    for before, after in zip(reference.parameters(), agent.critic.parameters(), strict=True):
        gradient = before.grad + decay * before.detach()
        clear = gradient.abs() > 1e-6
        moved = (after - before).detach()[clear]
        torch.testing.assert_close(moved, -rate * gradient[clear].sign(), rtol=0.02, atol=1e-6)


def short(run_dir: Path, **changes: Any) -> Args:
    values = {"steps": 30, "learning_starts": 20, "eval_period": 15, "eval_episodes": 1, "run_dir": str(run_dir)}
    return Args(**{**values, **changes})


def test_the_same_seed_gives_the_same_actor_and_it_can_be_played_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        main(short(tmp_path / name, seed=seed))
    a, b, c = (np.load(tmp_path / name / "actor.npz") for name in "abc")
    assert all(np.array_equal(a[key], b[key]) for key in a.files)
    assert not np.array_equal(a["4.weight"], c["4.weight"])
    assert {path.name for path in (tmp_path / "a").iterdir()} > {"curves.csv", "curves.png", "actor.npz"}
    trained = capsys.readouterr().out.splitlines()[1]
    main(short(tmp_path, evaluate=str(tmp_path / "a" / "actor.npz")))
    assert capsys.readouterr().out.split()[-1] == trained.split("greedy return ")[1].split(",")[0]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"env": "CartPole-v1"}, "must be vectors"),
        ({"env": "NoSuchThing-v0"}, "doesn't exist"),
        ({"evaluate": "no/such/actor.npz"}, "no actor saved for this"),
        ({"evaluate": __file__}, "no actor saved for this"),
    ],
)
def test_mistakes_get_a_sentence_and_no_folder(
    changes: dict[str, str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(short(tmp_path / "run", **changes))
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(short(tmp_path))
    assert stopped.value.code == 2
    assert "name a new folder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_pendulum_is_solved_within_60_000_steps(seed: int, tmp_path: Path) -> None:
    """Greedy return above -200 over 20 episodes. Measured: first after 10 000 to 15 000 steps."""
    args = Args(seed=seed, run_dir=str(tmp_path / "run"))
    assert args.steps <= 60_000
    main(args)
    agent = Agent(3, 1, args)
    ddpg_pendulum.load(agent.actor, str(tmp_path / "run" / "actor.npz"))
    assert greedy_return(agent, gym.make(args.env), 20) > -200
