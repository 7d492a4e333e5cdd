"""What an update and a lane step cost by kind of network, in processor time, against one network without novelty.

    python -m benchmarks.kinds [--preset laptop] [--repeats 30] [--json]

On Pong, one thread, in turn in one process. The limit of an update is that of a single network that one policy trains;
that of acting is today's whole agent with separate networks.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import torch

from actors.rollout import RolloutWorker
from agent57.structures import SequenceSpec
from benchmarks.learner import random_batch
from benchmarks.measure import Figure, against, alternating_medians, report
from benchmarks.networks import ATARI
from cluster.run.command_line import parse_train
from cluster.run.config import TrainConfig
from learner.learner import Learner

PROPAGATION = (
    *("--loss.trace", "soft_watkins", "--loss.bootstrap", "online"),
    *("--loss.trust-region", "2", "--loss.td-scale", "policy"),
)
KINDS = {
    "one policy, single network, no novelty": (
        *("--family.num-policies", "1", "--family.beta-max", "0"),
        *("--network.kind", "single", "--intrinsic.novelty", "none"),
    ),
    "whole agent, separate networks": (),
    "whole agent, shared network": (*PROPAGATION, "--network.kind", "shared"),
    "whole agent, shared network, policy head": (*PROPAGATION, "--network.kind", "shared", "--network.policy-head"),
}
LIMIT, TODAY = "one policy, single network, no novelty", "whole agent, separate networks"


def updates(configs: dict[str, TrainConfig], repeats: int) -> list[Figure]:
    """Updates per second of processor time, all policies trained, against the single network's."""
    calls = []
    for config in configs.values():
        spec = dataclasses.replace(ATARI, num_actions=6)
        learner = Learner(config.agent, dataclasses.replace(config.learner, device="cpu"), spec, seed=0)
        batch = random_batch(SequenceSpec.of(config.agent, spec), config.learner.batch_size, config.family.num_policies)
        calls.append(lambda learner=learner, batch=batch: learner.update(batch))
    for call in calls * 2:
        call()
    seconds = dict(zip(configs, alternating_medians(calls, repeats, time.process_time), strict=True))
    return [
        against(
            f"update, {name}", 1 / each, "updates/s", 1 / seconds[LIMIT], where=f"{each / seconds[LIMIT]:.2f} times"
        )
        for name, each in seconds.items()
    ]


def acting(configs: dict[str, TrainConfig], repeats: int, steps: int = 20) -> list[Figure]:
    """Environment steps per second of processor time on Pong, against today's whole agent."""
    calls, lanes = [], {name: config.cluster.lanes_per_worker for name, config in configs.items()}
    for name, config in configs.items():
        worker = RolloutWorker(
            config.env, config.agent, config.actor, config.environment, 0, lanes[name], lanes[name], seed=0
        )
        arms = [[lane % config.family.num_policies] for lane in range(lanes[name])]
        worker.rollout(50, arms)
        calls.append(lambda worker=worker, arms=arms: worker.rollout(steps, arms))
    seconds = dict(zip(configs, alternating_medians(calls, repeats, time.process_time), strict=True))
    rates = {name: steps * lanes[name] / each for name, each in seconds.items()}
    return [against(f"acting, {name}", rate, "env steps/s", rates[TODAY]) for name, rate in rates.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    configs = {name: parse_train(["--preset", options.preset, *flags]).config for name, flags in KINDS.items()}
    report([*updates(configs, options.repeats), *acting(configs, options.repeats)], options.json)


if __name__ == "__main__":
    main()
