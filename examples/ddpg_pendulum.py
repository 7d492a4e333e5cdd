"""DDPG on Pendulum-v1: Q-learning for continuous actions, with an actor that learns what the critic likes best.

    python examples/ddpg_pendulum.py --seed 1
    python examples/ddpg_pendulum.py --evaluate runs/NAME/actor.npz

Lillicrap et al. 2016 (arXiv:1509.02971), without batch normalisation. Networks, noise and replay know actions in
[-1, 1]; `to_bounds` stretches them when the environment is stepped. Read `Agent.learn` first, then `train`.
"""

from __future__ import annotations

import copy
import csv
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True)
class Args:
    env: str = "Pendulum-v1"
    """Gymnasium id; its observations are vectors, its actions bounded vectors."""
    seed: int = 1
    steps: int = 30_000
    """Environment steps; one update each, once the replay holds `learning_starts` transitions."""
    learning_starts: int = 1_000
    replay_capacity: int = 1_000_000
    batch_size: int = 64
    gamma: float = 0.99
    tau: float = 1e-3
    """How far target networks move towards the online ones at each update."""
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    critic_weight_decay: float = 1e-2
    noise_theta: float = 0.15
    """Pull of the exploration noise towards 0, per step."""
    noise_sigma: float = 0.2
    """Size of the noise's kicks; 1 is half the range of an action."""
    eval_period: int = 2_500
    """Steps between greedy evaluations of `eval_episodes` episodes."""
    eval_episodes: int = 20
    run_dir: str = ""
    """New folder for scalars, curves.csv, curves.png and actor.npz; default: one in runs/."""
    evaluate: str = ""
    """Play this saved actor greedily instead of training."""


def linear(inputs: int, outputs: int, bound: float | None = None) -> nn.Linear:
    """A layer with weights and biases from +-bound, by default +-1 / sqrt(inputs). Last layers are drawn small, so
    that actions and values start near 0, where tanh has a gradient."""
    layer = nn.Linear(inputs, outputs)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -(bound or inputs**-0.5), bound or inputs**-0.5)
    return layer


def make_actor(observation_size: int, action_size: int) -> nn.Sequential:
    """Observations [B, O] -> actions [B, A] in [-1, 1]."""
    hidden = (linear(observation_size, 400), nn.ReLU(), linear(400, 300), nn.ReLU())
    return nn.Sequential(*hidden, linear(300, action_size, bound=3e-3), nn.Tanh())


class Critic(nn.Module):
    """Observations [B, O] and actions [B, A] in [-1, 1] -> values [B]. The action joins at the second layer."""

    def __init__(self, observation_size: int, action_size: int) -> None:
        super().__init__()
        self.first, self.second = linear(observation_size, 400), linear(400 + action_size, 300)
        self.last = linear(300, 1, bound=3e-4)

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        hidden = torch.cat([F.relu(self.first(observations)), actions], dim=1)
        return self.last(F.relu(self.second(hidden))).squeeze(1)


class OrnsteinUhlenbeck:
    """Noise [A] that drifts rather than trembles: x <- x - theta x + sigma N(0, 1). Long pushes swing things up."""

    def __init__(self, size: int, theta: float, sigma: float, rng: np.random.Generator) -> None:
        self.theta, self.sigma, self.rng, self.state = theta, sigma, rng, np.zeros(size)

    def sample(self) -> np.ndarray:
        self.state = (1 - self.theta) * self.state + self.sigma * self.rng.standard_normal(len(self.state))
        return self.state


class Replay:
    """The last `capacity` transitions (observation, action, reward, next observation, terminated), drawn uniformly."""

    def __init__(self, capacity: int, observation_size: int, action_size: int, rng: np.random.Generator) -> None:
        shapes = ((observation_size,), (action_size,), (), (observation_size,), ())
        self.columns = [np.zeros((capacity, *shape), np.float32) for shape in shapes]
        self.capacity, self.added, self.rng = capacity, 0, rng

    def add(self, *transition: np.ndarray | float) -> None:
        for column, value in zip(self.columns, transition, strict=True):
            column[self.added % self.capacity] = value
        self.added += 1

    def sample(self, batch_size: int) -> list[Tensor]:
        rows = self.rng.integers(min(self.added, self.capacity), size=batch_size)
        return [torch.from_numpy(column[rows]) for column in self.columns]


class Agent:
    """Actor and critic, their slowly following copies, and the update of all four."""

    def __init__(self, observation_size: int, action_size: int, args: Args) -> None:
        self.args = args
        self.actor, self.critic = make_actor(observation_size, action_size), Critic(observation_size, action_size)
        self.target_actor, self.target_critic = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), args.actor_lr, fused=True)
        self.critic_optimizer = torch.optim.Adam(
            self.critic.parameters(), args.critic_lr, weight_decay=args.critic_weight_decay, fused=True
        )

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        return self.actor(torch.as_tensor(observation, dtype=torch.float32)[None])[0].numpy()

    @torch.no_grad()
    def targets(self, rewards: Tensor, next_observations: Tensor, terminated: Tensor) -> Tensor:
        """r + gamma Q'(x', mu'(x')) [B]; a terminal x' is worth 0, but one where only time ran out keeps its value."""
        next_values = self.target_critic(next_observations, self.target_actor(next_observations))
        return rewards + self.args.gamma * (1 - terminated) * next_values

    def learn(self, batch: list[Tensor]) -> dict[str, float]:
        observations, actions, rewards, next_observations, terminated = batch
        values = self.critic(observations, actions)
        critic_loss = F.mse_loss(values, self.targets(rewards, next_observations, terminated))
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()

        # The deterministic policy gradient: uphill on the critic, through the action, moving the actor alone.
        actor_loss = -self.critic(observations, self.actor(observations)).mean()
        self.actor_optimizer.zero_grad()
        actor_loss.backward(inputs=list(self.actor.parameters()))
        self.actor_optimizer.step()

        with torch.no_grad():
            for online, target in ((self.actor, self.target_actor), (self.critic, self.target_critic)):
                for new, old in zip(online.parameters(), target.parameters(), strict=True):
                    old.lerp_(new, self.args.tau)
        return {"loss/critic": critic_loss.item(), "loss/actor": actor_loss.item(), "q/mean": values.mean().item()}


def to_bounds(action: np.ndarray, space: gym.spaces.Box) -> np.ndarray:
    """[-1, 1] -> [low, high]: a bare tanh would reach only half of Pendulum's torque of 2."""
    return (space.low + (action + 1) / 2 * (space.high - space.low)).astype(space.dtype)


def greedy_return(agent: Agent, env: gym.Env, episodes: int) -> float:
    """Mean undiscounted return of episodes without noise, from the same starts at every call."""
    total = 0.0
    for episode in range(episodes):
        (observation, _), over = env.reset(seed=10_000 + episode), False
        while not over:
            action = to_bounds(agent.act(observation), env.action_space)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
    return total / episodes


def train(args: Args, env: gym.Env, agent: Agent, run_dir: Path) -> list[tuple[str, int, float]]:
    """Curves: (tag, step, value). The actor is saved after every evaluation, so a stopped run keeps its newest."""
    rng, eval_env = np.random.default_rng(args.seed), gym.make(args.env)
    observation_size, action_size = env.observation_space.shape[0], env.action_space.shape[0]
    replay = Replay(args.replay_capacity, observation_size, action_size, rng)
    curves, writer, started, over = [], SummaryWriter(run_dir), time.monotonic(), True
    writer.add_text("arguments", str(args))

    def log(step: int, scalars: dict[str, float]) -> None:
        for tag, value in scalars.items():
            curves.append((tag, step, value))
            writer.add_scalar(tag, value, step)

    for step in range(1, args.steps + 1):
        if over:
            observation, _ = env.reset(seed=args.seed if step == 1 else None)
            noise, episode_return = OrnsteinUhlenbeck(action_size, args.noise_theta, args.noise_sigma, rng), 0.0
        action = np.clip(agent.act(observation) + noise.sample(), -1, 1)
        next_observation, reward, terminated, truncated, _ = env.step(to_bounds(action, env.action_space))
        replay.add(observation, action, float(reward), next_observation, terminated)
        observation, over, episode_return = next_observation, terminated or truncated, episode_return + float(reward)
        if over:
            log(step, {"train/return": episode_return})
        if replay.added >= args.learning_starts:
            losses = agent.learn(replay.sample(args.batch_size))
            if step % 500 == 0:
                log(step, losses | {"rate/steps_per_second": step / (time.monotonic() - started)})
        if step % args.eval_period == 0 or step == args.steps:
            score = greedy_return(agent, eval_env, args.eval_episodes)
            log(step, {"eval/return": score})
            print(f"step {step}: greedy return {score:.1f}, {(time.monotonic() - started) / 60:.1f} min", flush=True)
            np.savez(run_dir / "actor.npz", **{name: array.numpy() for name, array in agent.actor.state_dict().items()})
    writer.close()
    return curves


def plot(curves: list[tuple[str, int, float]], path: Path, title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="tight")
    axis = figure.subplots()
    for tag, style in (("train/return", {"alpha": 0.4}), ("eval/return", {"marker": "o", "markersize": 3})):
        axis.plot([s for t, s, _ in curves if t == tag], [v for t, _, v in curves if t == tag], label=tag, **style)
    axis.set(xlabel="environment steps", ylabel="episode return", title=title)
    axis.legend()
    figure.savefig(path, dpi=110)


def load(actor: nn.Module, path: str) -> None:
    try:
        arrays = np.load(path)
        actor.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    except Exception as error:
        raise ValueError(f"--evaluate {path}: no actor saved for this --env ({type(error).__name__})") from error


def main(args: Args) -> None:
    torch.set_num_threads(1)  # More threads only slow down networks of this size.
    torch.manual_seed(args.seed)
    run_dir = Path(args.run_dir or f"runs/ddpg-{args.env}-seed{args.seed}-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        env = gym.make(args.env)
        spaces = (env.observation_space, env.action_space)
        if any(not isinstance(space, gym.spaces.Box) or len(space.shape) != 1 for space in spaces):
            raise ValueError(f"--env {args.env}: observations and actions must be vectors; see reinforce_cartpole.py")
        if not env.action_space.is_bounded():
            raise ValueError(f"--env {args.env}: actions must be bounded, but they are {env.action_space}")
        agent = Agent(env.observation_space.shape[0], env.action_space.shape[0], args)
        if args.evaluate:
            load(agent.actor, args.evaluate)
        elif run_dir.exists():
            raise ValueError(f"--run-dir {run_dir} exists: name a new folder")
    except (gym.error.Error, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if args.evaluate:
        print(f"greedy return {greedy_return(agent, env, args.eval_episodes):.1f}")
        return
    curves = train(args, env, agent, run_dir)
    with (run_dir / "curves.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("tag", "step", "value"), *curves])
    plot(curves, run_dir / "curves.png", f"DDPG on {args.env}, seed {args.seed}")


if __name__ == "__main__":
    main(tyro.cli(Args))
