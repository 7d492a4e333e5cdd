"""Acting on Pong with the paper's networks on one core, against the limit of emulator and networks alone.

    python -m benchmarks.acting [--lanes 32] [--json]

The limit is 1 / (1 / emulator rate + 1 / network rate), each measured alone in the same run with the same
lanes and arithmetic. The worker does everything else besides: recurrent states, intrinsic rewards, episodic
memory, epsilon-greedy, sequences, initial priorities, compression.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from actors.environments import EnvironmentConfig, LaneEnvironments
from actors.rollout import ActorConfig, RolloutWorker
from agent57.config import AgentConfig
from agent57.networks import Agent57Networks, set_torso_dtype
from agent57.structures import EnvironmentSpec
from benchmarks.measure import Figure, median_seconds, report
from replay.codec import encode_sequence

ENV = "ALE/Pong-v5"
CHUNK = 50
"""Steps of each lane in one timed piece."""


def emulator_rate(lanes: int, repeats: int) -> float:
    """Environment steps per second of the emulator with its preprocessing, alone."""
    environments = LaneEnvironments(ENV, lanes, 0, EnvironmentConfig())
    environments.reset()
    rng = np.random.default_rng(0)

    def play() -> None:
        for _ in range(CHUNK):
            environments.step(rng.integers(environments.spec.num_actions, size=lanes))

    return CHUNK * lanes / median_seconds(play, repeats)


@torch.inference_mode()
def network_rate(spec: EnvironmentSpec, agent: AgentConfig, lanes: int, dtype: str, repeats: int) -> float:
    """Lane steps per second of the five networks' forward passes, alone."""
    networks = Agent57Networks(spec, agent.family.num_policies, agent.network)
    set_torso_dtype(networks, getattr(torch, dtype), cast_weights=dtype != "float32")
    observations = torch.randint(0, 256, (lanes, *spec.observation_shape), dtype=torch.uint8)
    actions = torch.zeros(lanes, dtype=torch.int64)
    rewards = torch.zeros(lanes)
    state = (torch.zeros(lanes, agent.network.lstm_size), torch.zeros(lanes, agent.network.lstm_size))

    def forward() -> None:
        networks.q_ext.step(observations, actions, rewards, rewards, actions, state)
        networks.q_int.step(observations, actions, rewards, rewards, actions, state)
        networks.embedding(observations)
        networks.rnd(observations)

    return lanes / median_seconds(forward, repeats * 10, warm_up=5)


def worker_rate(agent: AgentConfig, lanes: int, dtype: str, repeats: int) -> tuple[float, float]:
    """(environment steps per second of a whole worker, entries per lane in its memories at the end)."""
    actor = ActorConfig(torso_dtype=dtype, steps_per_request=CHUNK)
    worker = RolloutWorker(ENV, agent, actor, EnvironmentConfig(), 0, lanes, lanes, seed=0)
    # The learner's moments switch RND on; without them a worker skips it.
    worker.lanes.networks.rnd.normalizer.count.fill_(1)

    def play() -> None:
        for sequence in worker.rollout(CHUNK, [[] for _ in range(lanes)]).sequences:
            encode_sequence(sequence)

    # 1 000 steps first: memories of the size that the target is stated for.
    seconds = median_seconds(play, repeats, warm_up=1000 // CHUNK)
    return CHUNK * lanes / seconds, float(worker.lanes.memory.sizes.mean())


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
    emulator = emulator_rate(options.lanes, options.repeats)
    network = network_rate(spec, agent, options.lanes, options.dtype, options.repeats)
    worker, entries = worker_rate(agent, options.lanes, options.dtype, options.repeats)
    limit = 1 / (1 / emulator + 1 / network)
    unit = "env steps/s"
    figures = [
        Figure("emulator alone", emulator, unit),
        Figure(f"five networks alone, {options.lanes} lanes, {options.dtype}", network, unit),
        Figure(f"rollout worker, memories of {entries:.0f}", worker, unit, limit, worker / limit, ">= 0.6"),
    ]
    report(figures, options.json)


if __name__ == "__main__":
    main()
