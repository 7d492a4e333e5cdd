"""One learner update with the paper's networks, against a bare forward and backward of the same networks.

    python -m benchmarks.learner [--batch 8] [--length 80] [--device cpu] [--json]

Bare: both online Q-networks forward and backward and both targets forward on the same batch, with nothing
around it. The learner also computes Retrace targets and priorities, trains embedding and RND, clips, steps
four Adams and collects its metrics. Needs neither Ray nor an emulator.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import torch

from agent57.config import AgentConfig, SequenceConfig
from agent57.losses import unroll
from agent57.structures import EnvironmentSpec, SequenceBatch, SequenceSpec
from benchmarks.measure import Figure, alternating_medians, report
from learner.learner import Learner, LearnerConfig

ATARI = EnvironmentSpec((1, 84, 84), "uint8", 255.0, 18)


def random_batch(spec: SequenceSpec, batch_size: int, num_policies: int) -> SequenceBatch:
    """A full batch of noise frames and plausible scalars."""
    rng = np.random.default_rng(0)
    batch = SequenceBatch.empty(spec, batch_size)
    steps = batch.actions.shape
    batch.observations = rng.integers(0, 256, batch.observations.shape, np.uint8)
    batch.actions = rng.integers(spec.environment.num_actions, size=steps)
    batch.previous_actions = rng.integers(spec.environment.num_actions, size=steps)
    batch.behaviour_probs = rng.uniform(0.1, 1, steps).astype(np.float32)
    batch.extrinsic_rewards = rng.choice([0, 0, 0, 1], steps).astype(np.float32)
    batch.intrinsic_rewards = rng.uniform(0, 1, steps).astype(np.float32)
    batch.mask[:] = True
    batch.policy_index = rng.integers(num_policies, size=batch_size)
    return batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=80)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    agent = dataclasses.replace(AgentConfig(), sequence=SequenceConfig(options.length, options.length))
    config = LearnerConfig(batch_size=options.batch, torso_dtype=options.dtype, device=options.device)
    learner = Learner(agent, config, ATARI, seed=0)
    spec = SequenceSpec(ATARI, options.length, agent.network.lstm_size)
    batch = random_batch(spec, options.batch, agent.family.num_policies)
    on_device = batch.to_torch(learner.device)
    online = (learner.networks.q_ext, learner.networks.q_int)

    def synchronize() -> None:
        if learner.device.type == "cuda":
            torch.cuda.synchronize()

    def bare() -> None:
        learner.networks.zero_grad(set_to_none=True)
        with torch.no_grad():
            targets = [unroll(network, on_device, net, 0) for net, network in enumerate(learner.targets)]
        values = [unroll(network, on_device, net, 0) for net, network in enumerate(online)]
        sum((q - y).square().mean() for q, y in zip(values, targets, strict=True)).backward()
        synchronize()

    def update() -> None:
        learner.update(batch)
        synchronize()

    for warm_up in (bare, update, bare, update):
        warm_up()
    bare_seconds, update_seconds = alternating_medians([bare, update], options.repeats)
    steps = options.batch * options.length
    name = f"{options.batch} x {options.length}, {options.dtype}, {options.device}, {options.threads} thread"
    limit, value = steps / bare_seconds, steps / update_seconds
    figures = [
        Figure(f"bare forward and backward, {name}", limit, "steps/s"),
        Figure(f"learner update, {name}", value, "steps/s", limit, value / limit, ">= 0.8"),
    ]
    report(figures, options.json)


if __name__ == "__main__":
    main()
