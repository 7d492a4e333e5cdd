"""One learner update with the paper's networks, against a bare training step of the same networks.

    python -m benchmarks.learner [--batch 8] [--length 80] [--device cpu] [--torso nfnet --screen 210x160] [--json]

Bare: both online Q-networks, embedding and RND predictor forward, backward and one Adam step each, the targets
forward, on the same batch, with squares as losses and nothing around it. The learner also computes Retrace targets
and priorities, guards against NaN, clips, keeps running moments, collects metrics. Needs neither Ray nor emulator.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import numpy as np
import torch

from agent57.config import AgentConfig, Arithmetic, SequenceConfig
from agent57.structures import EnvironmentSpec, SequenceBatch, SequenceSpec, padded_batch
from agent57.terms.q_td import unroll
from agent57.terms.term import last_valid
from benchmarks.measure import Figure, against, alternating_medians, report, shares
from benchmarks.networks import add_torso_arguments, dtype_name, torso_asked_for
from learner.config import LearnerConfig
from learner.learner import Learner


def random_batch(spec: SequenceSpec, batch_size: int, num_policies: int) -> SequenceBatch[np.ndarray]:
    """A full batch of noise frames and plausible scalars."""
    rng = np.random.default_rng(0)
    batch = padded_batch(spec, batch_size)
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


class BareStep:
    """What no learner of these networks can do without; ``seconds`` by kind of the last call."""

    def __init__(self, learner: Learner, batch: SequenceBatch[torch.Tensor]) -> None:
        self._networks, self._targets, self._batch = learner.networks, learner.targets, batch
        t, b, _ = last_valid(batch.mask, learner.config.auxiliary_steps)
        self._observations, self._arrived = batch.observations[t, b], batch.observations[t + 1, b]
        trained = (*self._networks.q_networks, self._networks.embedding, self._networks.rnd.predictor)
        self._optimizers = [torch.optim.Adam(network.parameters(), fused=True) for network in trained]
        self.seconds: dict[str, float] = {}

    def __call__(self) -> None:
        start = time.perf_counter()
        batch = dataclasses.replace(
            self._batch, observations=self._networks.q_ext.torso_inputs(self._batch.observations)
        )
        with torch.no_grad():
            targets = [unroll(network, batch, net, 0) for net, network in enumerate(self._targets)]  # type: ignore[arg-type]
        targets_done = self._now()
        values = [unroll(network, batch, net, 0) for net, network in enumerate(self._networks.q_networks)]
        loss = sum((q - y).square().mean() for q, y in zip(values, targets, strict=True))
        embedding, rnd = self._networks.embedding, self._networks.rnd
        both = embedding(torch.cat([self._observations, self._arrived])).chunk(2)
        loss = loss + embedding.action_logits(*both).square().mean() + rnd(self._arrived).mean()
        forward_done = self._now()
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        backward_done = self._now()
        for optimizer in self._optimizers:
            optimizer.step()
        self.seconds = {
            "targets": targets_done - start,
            "forward": forward_done - targets_done,
            "backward": backward_done - forward_done,
            "Adam": self._now() - backward_done,
        }

    def _now(self) -> float:
        if self._batch.actions.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def measure(
    environment: EnvironmentSpec,
    agent: AgentConfig,
    batch_size: int,
    length: int,
    dtype: Arithmetic,
    device: str,
    repeats: int,
    target: str,
) -> list[Figure]:
    """The learner's and the bare step's trained steps per second, and where an update's time goes."""
    agent = dataclasses.replace(agent, sequence=SequenceConfig(length, length))
    config = LearnerConfig(batch_size=batch_size, torso_dtype=dtype, device=device)
    learner, twin = (Learner(agent, config, environment, seed=0) for _ in range(2))
    spec = SequenceSpec(environment, length, agent.network.lstm_size)
    batch = random_batch(spec, batch_size, agent.family.num_policies)
    bare = BareStep(twin, batch.to_torch(twin.device))

    def update() -> None:
        learner.update(batch)
        if learner.device.type == "cuda":
            torch.cuda.synchronize()

    for warm_up in (bare, update, bare, update):
        warm_up()
    one_core = learner.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if one_core else time.perf_counter
    bare_seconds, update_seconds = alternating_medians([bare, update], repeats, clock)
    steps = batch_size * length
    parts = {name: each / sum(bare.seconds.values()) * bare_seconds for name, each in bare.seconds.items()}
    name = f"{batch_size} x {length}, {device}"
    limit, value = steps / bare_seconds, steps / update_seconds
    where = f"{dtype} torsos: {shares(parts, update_seconds)}"
    return [
        Figure(f"bare training step, {name}", limit, "trained steps/s"),
        against(f"learner update, {name}", value, "trained steps/s", limit, target, where),
        Figure(f"learner updates, {name}", 1 / update_seconds, "updates/s"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=80)
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--target", default=">= 0.92", help="of the ratio, for the table")
    add_torso_arguments(parser)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = dtype_name(options.dtype, options.device)
    environment, agent = torso_asked_for(options)
    arguments = (options.batch, options.length, dtype, options.device, options.repeats, options.target)
    report(measure(environment, agent, *arguments), options.json)


if __name__ == "__main__":
    main()
