"""REINFORCE on CartPole-v1 in numpy: a linear policy whose gradient is derived by hand.

    python examples/reinforce_cartpole.py --policy softmax --seed 1
    python examples/reinforce_cartpole.py --policy sigmoid --baseline none
    python examples/reinforce_cartpole.py --policy softmax --evaluate runs/NAME/policy.npz

Williams 1992: raise the weights along sum_t A_t grad log pi(a_t | x_t). A_t is the discounted sum of the rewards that
came after a_t, with `--baseline value` minus what was to be expected in that state. Read `Softmax` and `train` first.
"""

from __future__ import annotations

import csv
import sys
import time
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import tyro
from torch.utils.tensorboard import SummaryWriter

SCALE = np.array([2.4, 3.0, 0.21, 3.0])
"""What is large for the cart's place (m) and speed (m/s), the pole's angle (rad) and angular speed (rad/s)."""


@dataclass(frozen=True)
class Args:
    policy: Literal["softmax", "sigmoid"] = "softmax"
    """A preference for each action, or the log-odds of pushing to the right."""
    baseline: Literal["value", "none"] = "value"
    """What is subtracted from the reward-to-go: a linear estimate of it, or nothing."""
    seed: int = 1
    """Of weights, actions and environment."""
    episodes: int = 5_000
    """Training episodes, unless the task is solved before."""
    solved_at: float = 475.0
    """Training ends when the last 100 episodes, explored actions included, average this much."""
    degree: int = 2
    """Of the polynomial in the four observed numbers; 2 makes 15 features."""
    gamma: float = 0.99
    learning_rate: float = 0.5
    """Of plain gradient ascent on the mean over the steps of a batch."""
    batch_episodes: int = 5
    """Episodes between updates."""
    init_std: float = 0.01
    """Of the first weights: small, so that both actions start near probability 1/2 in every state."""
    eval_period: int = 100
    """Episodes between greedy evaluations of 10 episodes; the last one has 100."""
    run_dir: str = ""
    """New folder for scalars, curves.csv, curves.png and policy.npz; default: one in runs/."""
    evaluate: str = ""
    """Play these saved weights greedily instead of training."""


class Polynomial:
    """All monomials of the scaled observation up to a degree, the constant 1 included."""

    def __init__(self, degree: int) -> None:
        # Each row picks `degree` factors out of (1, x_1, .., x_4).
        self.factors = np.array(list(combinations_with_replacement(range(len(SCALE) + 1), degree)))

    def __len__(self) -> int:
        return len(self.factors)

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """[4] -> [F]."""
        return np.concatenate([[1.0], observation / SCALE])[self.factors].prod(axis=1)


class Softmax:
    """pi(a | x) = exp(w_a x) / sum_b exp(w_b x), weights [2, F]."""

    def __init__(self, size: int, std: float, rng: np.random.Generator) -> None:
        self.weights = rng.normal(0, std, (2, size))

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """[..., F] -> [..., 2]."""
        preferences = x @ self.weights.T
        powers = np.exp(preferences - preferences.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)

    def gradient(self, x: np.ndarray, actions: np.ndarray, advantages: np.ndarray) -> np.ndarray:
        """sum_t A_t grad log pi(a_t | x_t) [2, F]; by w_b, the log's gradient is (1[b = a_t] - pi(b | x_t)) x_t."""
        return (advantages[:, None] * (np.eye(2)[actions] - self.probabilities(x))).T @ x


class Sigmoid:
    """pi(1 | x) = 1 / (1 + exp(-w x)), weights [F]: a Bernoulli policy."""

    def __init__(self, size: int, std: float, rng: np.random.Generator) -> None:
        self.weights = rng.normal(0, std, size)

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """[..., F] -> [..., 2]; the tanh is the same function, and does not overflow."""
        right = 0.5 * (1 + np.tanh(0.5 * (x @ self.weights)))
        return np.stack([1 - right, right], axis=-1)

    def gradient(self, x: np.ndarray, actions: np.ndarray, advantages: np.ndarray) -> np.ndarray:
        """sum_t A_t grad log pi(a_t | x_t) [F], where the log's gradient is (a_t - p_t) x_t.

        For a = 1 that is p' / p = p (1 - p) x / p = (1 - p) x, for a = 0 it is -p' / (1 - p) = -p x.
        """
        return (advantages * (actions - self.probabilities(x)[:, 1])) @ x


POLICIES = {"softmax": Softmax, "sigmoid": Sigmoid}


def rewards_to_go(rewards: list[float], gamma: float, after: float = 0.0) -> np.ndarray:
    """G_t = r_t + gamma G_{t+1} [T], where G_T = `after`: rewards are discounted by the time until they come, and
    those that came before the action are none of its merits."""
    result = np.zeros(len(rewards))
    for t in reversed(range(len(rewards))):
        after = result[t] = rewards[t] + gamma * after
    return result


def fitted_values(x: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """Weights [F] of the linear estimate of `returns` [T] by least squares, with a small ridge for unseen features."""
    return np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ returns)


def greedy_return(policy: Softmax | Sigmoid, polynomial: Polynomial, episodes: int) -> float:
    """Mean return of episodes that take the likelier action, from the same starts at every call."""
    env, total = gym.make("CartPole-v1"), 0.0
    for episode in range(episodes):
        (observation, _), over = env.reset(seed=10_000 + episode), False
        while not over:
            action = int(policy.probabilities(polynomial(observation)).argmax())
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
    return total / episodes


def train(
    args: Args, policy: Softmax | Sigmoid, polynomial: Polynomial, rng: np.random.Generator, run_dir: Path
) -> list[tuple[str, int, float]]:
    """Curves: (tag, episode, value)."""
    env, writer, curves = gym.make("CartPole-v1"), SummaryWriter(run_dir), []
    writer.add_text("arguments", str(args))
    returns: list[float] = []
    batch, values = [], np.zeros(len(polynomial))

    def log(tag: str, value: float) -> None:
        curves.append((tag, len(returns), value))
        writer.add_scalar(tag, value, len(returns))

    solved = False
    while len(returns) < args.episodes and not solved:
        (observation, _), over = env.reset(seed=None if returns else args.seed), False
        xs, actions, rewards = [], [], []
        while not over:
            xs.append(polynomial(observation))
            actions.append(int(rng.random() < policy.probabilities(xs[-1])[1]))
            observation, reward, terminated, truncated, _ = env.step(actions[-1])
            rewards.append(float(reward))
            over = terminated or truncated
        # Where only time ran out, the pole would have stood on: the baseline, if there is one, says for how long.
        after = 0.0 if terminated or args.baseline == "none" else float(polynomial(observation) @ values)
        batch.append((np.array(xs), np.array(actions), rewards_to_go(rewards, args.gamma, after)))
        returns.append(sum(rewards))
        log("train/return", returns[-1])
        if len(batch) == args.batch_episodes:
            x, taken, to_go = (np.concatenate(column) for column in zip(*batch, strict=True))
            policy.weights += args.learning_rate * policy.gradient(x, taken, to_go - x @ values) / len(x)
            if args.baseline == "value":
                # Fitted after its use: a baseline that knows the returns it is subtracted from would be biased.
                values = fitted_values(x, to_go)
            batch = []
        solved = len(returns) >= 100 and sum(returns[-100:]) / 100 >= args.solved_at
        last = solved or len(returns) == args.episodes
        if last or len(returns) % args.eval_period == 0:
            score = greedy_return(policy, polynomial, 100 if last else 10)
            log("eval/return", score)
            print(f"episode {len(returns)}: last 100 {np.mean(returns[-100:]):.1f}, greedy {score:.1f}", flush=True)
            np.savez(run_dir / "policy.npz", weights=policy.weights)
    writer.close()
    return curves


def plot(curves: list[tuple[str, int, float]], path: Path, title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="tight")
    axis = figure.subplots()
    for tag, style in (("train/return", {"alpha": 0.4}), ("eval/return", {"marker": "o", "markersize": 3})):
        axis.plot([s for t, s, _ in curves if t == tag], [v for t, _, v in curves if t == tag], label=tag, **style)
    axis.set(xlabel="episodes", ylabel="episode return", title=title)
    axis.legend()
    figure.savefig(path, dpi=110)


def load(policy: Softmax | Sigmoid, path: str) -> None:
    try:
        policy.weights[...] = np.load(path)["weights"].reshape(policy.weights.shape)
    except Exception as error:
        raise ValueError(
            f"--evaluate {path}: no weights of this --policy and --degree ({type(error).__name__})"
        ) from error


def main(args: Args) -> None:
    rng, polynomial = np.random.default_rng(args.seed), Polynomial(args.degree)
    policy = POLICIES[args.policy](len(polynomial), args.init_std, rng)
    name = f"reinforce-{args.policy}-seed{args.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    run_dir = Path(args.run_dir or f"runs/{name}")
    try:
        if args.evaluate:
            load(policy, args.evaluate)
        elif run_dir.exists():
            raise ValueError(f"--run-dir {run_dir} exists: name a new folder")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if args.evaluate:
        print(f"greedy return {greedy_return(policy, polynomial, 100):.1f}")
        return
    curves = train(args, policy, polynomial, rng, run_dir)
    with (run_dir / "curves.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("tag", "step", "value"), *curves])
    plot(curves, run_dir / "curves.png", f"REINFORCE on CartPole-v1, {args.policy} policy, seed {args.seed}")


if __name__ == "__main__":
    main(tyro.cli(Args))
