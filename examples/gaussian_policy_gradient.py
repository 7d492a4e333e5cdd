"""REINFORCE with a Gaussian policy: a network says where to aim (mean) and how boldly to try (standard deviation).

    python examples/gaussian_policy_gradient.py --seed 1
    python examples/gaussian_policy_gradient.py --env Pendulum-v1 --hidden 32 32 --learning-rate 3e-3 --updates 400
    python examples/gaussian_policy_gradient.py --evaluate runs/NAME/policy.npz

By default the one-shot game: one state, one action, R = zeta b / max(zeta, |target - a|). That is b within zeta of the
target and less outside: the mean has to find the target and the deviation to close upon it. The same code plays whole
episodes of any environment with vectors as observations and actions. Read `log_prob`, then `train`.
"""

from __future__ import annotations

import csv
import math
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

MIN_LOG_STD, MAX_LOG_STD = -5.0, 2.0
"""Below the first, actions hardly differ any more while gradients grow as 1 / std."""


@dataclass(frozen=True)
class Args:
    env: str = "one-shot"
    """The one-shot game, or a Gymnasium id."""
    target: float = 4.0
    """One-shot game: the best action."""
    zeta: float = 0.25
    """One-shot game: how near the target the reward is full."""
    max_reward: float = 1.0
    """One-shot game: the full reward, b."""
    hidden: tuple[int, ...] = (5, 5)
    """Sizes of the layers of ReLUs."""
    seed: int = 1
    """Of network, actions and environment."""
    updates: int = 2_000
    batch_episodes: int = 16
    """Episodes per update, at least 2: each is compared with the others."""
    learning_rate: float = 1e-3
    gamma: float = 0.99
    eval_period: int = 20
    """Updates between greedy evaluations of `eval_episodes` episodes."""
    eval_episodes: int = 20
    run_dir: str = ""
    """New folder for scalars, curves.csv, curves.png and policy.npz; default: one in runs/."""
    evaluate: str = ""
    """Play this saved policy greedily instead of training; --env and --hidden as they were."""


class OneShotGame(gym.Env):
    """One constant state; the episode ends with its first action."""

    def __init__(self, target: float, zeta: float, max_reward: float) -> None:
        self.target, self.zeta, self.max_reward = target, zeta, max_reward
        self.observation_space = gym.spaces.Box(1, 1, (1,), np.float32)
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        return np.ones(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = self.zeta * self.max_reward / max(self.zeta, abs(self.target - float(action[0])))
        return np.ones(1, np.float32), reward, True, False, {}


class GaussianPolicy(nn.Module):
    """Observations [..., O] -> mean and log standard deviation [..., A]."""

    def __init__(self, observation_size: int, action_size: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (observation_size, *hidden)
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes))
        self.head = nn.Linear(sizes[-1], 2 * action_size)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)  # Mean 0 and standard deviation 1 in every state.

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            observations = F.relu(layer(observations))
        mean, log_std = self.head(observations).chunk(2, dim=-1)
        return mean, log_std.clamp(MIN_LOG_STD, MAX_LOG_STD)


def log_prob(actions: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(a; mean, std), summed over the last axis: -((a - mean) / std)^2 / 2 - log std - log(2 pi) / 2.

    The logarithm is taken on paper. That of a computed density is -inf, and its gradient NaN, from 14 standard
    deviations on in float32: just the actions from which there is most to learn.
    """
    deviations = (actions - mean) * torch.exp(-log_std)
    return (-0.5 * deviations**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


@torch.no_grad()
def play(policy: GaussianPolicy, envs: list[gym.Env], greedy: bool, seed: int | None = None) -> tuple[Tensor, ...]:
    """One episode per environment: observations [T, N, O], actions [T, N, A], rewards [T, N], alive [T, N].

    Played side by side, so that the network sees all observations at once. T is the longest episode's; steps after an
    episode's end have alive = 0.
    """
    seeds = [None if seed is None else seed + number for number in range(len(envs))]
    current = np.stack([env.reset(seed=number)[0] for env, number in zip(envs, seeds, strict=True)]).astype(np.float32)
    alive, steps = np.ones(len(envs), bool), []
    while alive.any():
        mean, log_std = policy(torch.from_numpy(current))
        actions = mean if greedy else mean + torch.exp(log_std) * torch.randn_like(mean)
        rewards, before, following = np.zeros(len(envs), np.float32), alive.copy(), current.copy()
        for n in np.flatnonzero(alive):
            space = envs[n].action_space
            # The environment gets an action within its bounds; the policy learns about the one it drew.
            legal = np.clip(actions[n].numpy(), space.low, space.high)
            following[n], rewards[n], terminated, truncated, _ = envs[n].step(legal)
            alive[n] = not (terminated or truncated)
        steps.append((torch.from_numpy(current), actions, torch.from_numpy(rewards), torch.from_numpy(before)))
        current = following
    return tuple(torch.stack(column) for column in zip(*steps, strict=True))


def rewards_to_go(rewards: Tensor, gamma: float) -> Tensor:
    """G_t = r_t + gamma G_{t+1} along the first axis."""
    result = rewards.clone()
    for t in reversed(range(len(rewards) - 1)):
        result[t] += gamma * result[t + 1]
    return result


def advantages(rewards: Tensor, alive: Tensor, gamma: float) -> Tensor:
    """Rewards-to-go [T, N] minus their mean over the episodes that are alive at the same t; 0 after an episode's end.

    The mean is the baseline: without it every action of the one-shot game looks good, and the noise of the gradient
    grows as the deviation closes. Its own share in the mean shrinks an episode's advantage by 1 - 1/N, no more.
    """
    returns, weights = rewards_to_go(rewards, gamma), alive.float()
    return (returns - (returns * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)) * weights


def make_envs(args: Args, number: int) -> list[gym.Env]:
    if args.env == "one-shot":
        return [OneShotGame(args.target, args.zeta, args.max_reward) for _ in range(number)]
    return [gym.make(args.env) for _ in range(number)]


def greedy_return(policy: GaussianPolicy, envs: list[gym.Env]) -> float:
    """Mean undiscounted return of the mean action, one episode per environment, from the same starts at every call."""
    return play(policy, envs, greedy=True, seed=10_000)[2].sum(0).mean().item()


def train(args: Args, policy: GaussianPolicy, run_dir: Path) -> list[tuple[str, int, float]]:
    """Curves: (tag, update, value). The policy is saved after every evaluation."""
    optimizer = torch.optim.Adam(policy.parameters(), args.learning_rate)
    envs, eval_envs = make_envs(args, args.batch_episodes), make_envs(args, args.eval_episodes)
    curves, writer, started = [], SummaryWriter(run_dir), time.monotonic()
    writer.add_text("arguments", str(args))
    for update in range(1, args.updates + 1):
        seed = args.seed * 1_000 if update == 1 else None
        observations, actions, rewards, alive = play(policy, envs, greedy=False, seed=seed)
        mean, log_std = policy(observations)
        weighted = advantages(rewards, alive, args.gamma) * log_prob(actions, mean, log_std)
        optimizer.zero_grad()
        (-weighted.sum() / alive.sum()).backward()
        optimizer.step()
        if update == 1 or update % args.eval_period == 0 or update == args.updates:
            scalars = {
                "train/return": rewards.sum(0).mean().item(),
                "eval/return": greedy_return(policy, eval_envs),
                "policy/mean": mean[alive.bool()].mean().item(),
                "policy/std": log_std[alive.bool()].exp().mean().item(),
            }
            for tag, value in scalars.items():
                curves.append((tag, update, value))
                writer.add_scalar(tag, value, update)
            shown = ", ".join(f"{tag} {value:.3f}" for tag, value in scalars.items())
            print(f"update {update}: {shown}, {(time.monotonic() - started) / 60:.1f} min", flush=True)
            np.savez(run_dir / "policy.npz", **{name: array.numpy() for name, array in policy.state_dict().items()})
    writer.close()
    return curves


def plot(curves: list[tuple[str, int, float]], args: Args, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="tight")
    left, right = figure.subplots(1, 2)
    points = {tag: np.array([(s, v) for t, s, v in curves if t == tag]).T for tag, _, _ in curves}
    for tag in ("train/return", "eval/return"):
        left.plot(*points[tag], label=tag)
    updates, mean = points["policy/mean"]
    std = points["policy/std"][1]
    right.plot(updates, mean, label="mean")
    right.fill_between(updates, mean - std, mean + std, alpha=0.25, label="one standard deviation")
    if args.env == "one-shot":
        right.axhspan(args.target - args.zeta, args.target + args.zeta, color="grey", alpha=0.3, label="full reward")
    left.set(xlabel="updates", ylabel="episode return", title=f"{args.env}, seed {args.seed}")
    right.set(xlabel="updates", ylabel="action", title="policy, averaged over the states it met")
    left.legend()
    right.legend()
    figure.savefig(path, dpi=110)


def load(policy: GaussianPolicy, path: str) -> None:
    try:
        arrays = np.load(path)
        policy.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    except Exception as error:
        raise ValueError(f"--evaluate {path}: no policy of this --env and --hidden ({type(error).__name__})") from error


def main(args: Args) -> None:
    torch.set_num_threads(1)  # More threads only slow down networks of this size.
    torch.manual_seed(args.seed)
    run_dir = Path(args.run_dir or f"runs/gaussian-{args.env}-seed{args.seed}-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        env = make_envs(args, 1)[0]
        spaces = (env.observation_space, env.action_space)
        if any(not isinstance(space, gym.spaces.Box) or len(space.shape) != 1 for space in spaces):
            raise ValueError(f"--env {args.env}: observations and actions must be vectors; see reinforce_cartpole.py")
        if args.batch_episodes < 2:
            raise ValueError("--batch-episodes must be at least 2: each episode is compared with the others")
        policy = GaussianPolicy(spaces[0].shape[0], spaces[1].shape[0], args.hidden)
        if args.evaluate:
            load(policy, args.evaluate)
        elif run_dir.exists():
            raise ValueError(f"--run-dir {run_dir} exists: name a new folder")
    except (gym.error.Error, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if args.evaluate:
        print(f"greedy return {greedy_return(policy, make_envs(args, args.eval_episodes)):.3f}")
        return
    curves = train(args, policy, run_dir)
    with (run_dir / "curves.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("tag", "step", "value"), *curves])
    plot(curves, args, run_dir / "curves.png")


if __name__ == "__main__":
    main(tyro.cli(Args))
