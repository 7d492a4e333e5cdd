"""Acting on Pong with the paper's networks on one core, against the limit of emulator and networks alone.

    python -m benchmarks.acting [--lanes 32] [--json]

The limit is 1 / (1 / emulator rate + 1 / network rate), each measured alone in the same run with the same
lanes and arithmetic. The worker does everything else besides: recurrent states, intrinsic rewards, episodic
memory, epsilon-greedy, sequences, initial priorities, compression.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch

from actors.environments import EnvironmentConfig, LaneEnvironments
from actors.rollout import ActorConfig, RolloutWorker
from agent57.config import AgentConfig
from agent57.networks import Agent57Networks, set_torso_dtype
from agent57.structures import EnvironmentSpec
from benchmarks.measure import Figure, alternating_medians, report
from replay.codec import encode_sequence

ENV = "ALE/Pong-v5"
CHUNK = 50
"""Steps of each lane in one timed piece."""


def emulator(lanes: int) -> Callable[[], None]:
    """CHUNK steps of all lanes of the emulator with its preprocessing, alone."""
    environments = LaneEnvironments(ENV, lanes, 0, EnvironmentConfig())
    environments.reset()
    rng = np.random.default_rng(0)

    def play() -> None:
        for _ in range(CHUNK):
            environments.step(rng.integers(environments.spec.num_actions, size=lanes))

    return play


def networks(spec: EnvironmentSpec, agent: AgentConfig, lanes: int, dtype: str) -> Callable[[], None]:
    """CHUNK forward passes of the five networks on all lanes, alone."""
    five = Agent57Networks(spec, agent.family.num_policies, agent.network)
    set_torso_dtype(five, getattr(torch, dtype), cast_weights=dtype != "float32")
    observations = torch.randint(0, 256, (lanes, *spec.observation_shape), dtype=torch.uint8)
    actions = torch.zeros(lanes, dtype=torch.int64)
    rewards = torch.zeros(lanes)
    state = (torch.zeros(lanes, agent.network.lstm_size), torch.zeros(lanes, agent.network.lstm_size))

    @torch.inference_mode()
    def forward() -> None:
        for _ in range(CHUNK):
            five.q_ext.step(observations, actions, rewards, rewards, actions, state)
            five.q_int.step(observations, actions, rewards, rewards, actions, state)
            five.embedding(observations)
            five.rnd(observations)

    return forward


def rollout_worker(agent: AgentConfig, lanes: int, dtype: str) -> tuple[RolloutWorker, Callable[[], None]]:
    """A worker, and CHUNK steps of all its lanes with everything that it does, encoding included."""
    actor = ActorConfig(torso_dtype=dtype, steps_per_request=CHUNK)
    worker = RolloutWorker(ENV, agent, actor, EnvironmentConfig(), 0, lanes, lanes, seed=0)
    # The learner's moments switch RND on; without them a worker skips it.
    worker.lanes.networks.rnd.normalizer.count.fill_(1)

    def play() -> None:
        for sequence in worker.rollout(CHUNK, [[] for _ in range(lanes)]).sequences:
            encode_sequence(sequence)

    return worker, play


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lanes", type=int, default=32)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    agent = AgentConfig()
    spec = LaneEnvironments(ENV, 1, 0, EnvironmentConfig()).spec
    worker, work = rollout_worker(agent, options.lanes, options.dtype)
    play, forward = emulator(options.lanes), networks(spec, agent, options.lanes, options.dtype)
    play()
    forward()
    # Memories of the size that the target is stated for: about half of the steps, as episodes end.
    for _ in range(1000 // CHUNK):
        work()
    seconds = alternating_medians([play, forward, work], options.repeats)
    emulator_rate, network_rate, worker_rate = (CHUNK * options.lanes / each for each in seconds)
    entries = float(worker.lanes.memory.sizes.mean())
    limit = 1 / (1 / emulator_rate + 1 / network_rate)
    unit = "env steps/s"
    figures = [
        Figure("emulator alone", emulator_rate, unit),
        Figure(f"five networks alone, {options.lanes} lanes, {options.dtype}", network_rate, unit),
        Figure(f"rollout worker, memories of {entries:.0f}", worker_rate, unit, limit, worker_rate / limit, ">= 0.6"),
    ]
    report(figures, options.json)


if __name__ == "__main__":
    main()
