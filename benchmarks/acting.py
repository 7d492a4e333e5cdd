"""Acting on one core, against the limit of emulator and networks alone; and what episodic memory costs.

    python -m benchmarks.acting [--preset paper] [--env ALE/Pong-v5] [--lanes 32] [--memories 10000 30000] [--json]

The limit is 1 / (1 / emulator rate + 1 / network rate), each measured alone in the same run with the same
lanes and arithmetic. The worker does everything else besides: recurrent states, intrinsic rewards, episodic
memory, epsilon-greedy, sequences, initial priorities, compression.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from actors.config import ActorConfig
from actors.environments.contract import LaneEnvironments
from actors.rollout import RolloutWorker
from agent57.config import Arithmetic
from agent57.novelty.episodic_memory import EpisodicMemory
from agent57.novelty.ngu import NGULanes
from benchmarks.measure import Figure, against, alternating_medians, report, shares
from benchmarks.networks import dtype_name, forward_passes
from cluster.plan.freed_memory import keep_freed_memory
from cluster.run.config import TrainConfig
from cluster.run.presets import PRESETS
from replay.codec import encode_sequence

CHUNK = 50
"""Steps of each lane in one timed piece."""
MEMORY_TARGETS = {10_000: "<= 0.10", 30_000: "<= 0.25"}


def emulator(env: str, config: TrainConfig, lanes: int) -> Callable[[], None]:
    """CHUNK steps of all lanes of the environment with its preprocessing, alone."""
    environments = LaneEnvironments(env, lanes, 0, config.environment)
    environments.reset()
    rng = np.random.default_rng(0)

    def play() -> None:
        for _ in range(CHUNK):
            environments.step(rng.integers(environments.spec.num_actions, size=lanes))

    return play


class TimedWorker:
    """A worker with everything that it does, encoding included; ``seconds`` by kind of work, while ``timing``."""

    def __init__(self, env: str, config: TrainConfig, lanes: int, dtype: Arithmetic) -> None:
        actor = ActorConfig(torso_dtype=dtype, steps_per_request=CHUNK)
        self.worker = RolloutWorker(env, config.agent, actor, config.environment, 0, lanes, lanes, seed=0)
        self.timing = False
        self.seconds: dict[str, float] = {}
        # The learner's moments switch RND on; without them a worker skips it.
        self.worker.lanes.networks.rnd.normalizer.count.fill_(1)
        novelty = self.worker.lanes.novelty
        assert isinstance(novelty, NGULanes)
        self.memory = memory = novelty.memory
        memory.bonus = self._timed("episodic memory", memory.bonus)  # type: ignore[method-assign]
        methods = {
            "environments": (self.worker.lanes.environments, "step"),
            "sequences": (self.worker._builder, "append"),
            "priorities": (self.worker, "_priorities"),
        }
        for name, (owner, method) in methods.items():
            setattr(owner, method, self._timed(name, getattr(owner, method)))
        self._encode = self._timed("compression", encode_sequence)

    def _timed(self, name: str, call: Callable) -> Callable:
        def timed(*arguments: object) -> object:
            if not self.timing:
                return call(*arguments)
            start = time.perf_counter()
            result = call(*arguments)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            return result

        return timed

    def work(self) -> None:
        """CHUNK steps of all lanes."""
        for sequence in self.worker.rollout(CHUNK, [[] for _ in range(self.worker.num_lanes)]).sequences:
            self._encode(sequence)

    def seconds_by_kind(self, chunks: int) -> tuple[dict[str, float], float]:
        """(seconds by kind of work, seconds in all) of ``chunks`` pieces."""
        self.seconds, self.timing = {}, True
        start = time.perf_counter()
        for _ in range(chunks):
            self.work()
        self.timing = False
        return self.seconds, time.perf_counter() - start


def filled_memory(agent_memory: EpisodicMemory, lanes: int, entries: int) -> tuple[EpisodicMemory, np.ndarray]:
    """A memory of this capacity with ``entries`` entries per lane, and the embeddings to ask it for next."""
    dim = agent_memory.state_dict()["entries"].shape[2]
    rng = np.random.default_rng(0)
    memory = EpisodicMemory(lanes, max(agent_memory.capacity, entries + 1), dim, agent_memory.num_neighbours)
    memory.load_state_dict(
        memory.state_dict()
        | {
            "entries": torch.from_numpy(rng.normal(size=(lanes, entries, dim)).astype(np.float32)),
            "appended": torch.full((lanes,), entries, dtype=torch.int64),
        }
    )
    return memory, rng.normal(size=(lanes, dim)).astype(np.float32)


def measure(
    env: str, preset: str, lanes: int, dtype: Arithmetic, entries: int, repeats: int, target: str, memories: list[int]
) -> list[Figure]:
    """The figures of one environment with one preset's networks.

    ``entries``: steps that each lane plays beforehand; ``memories``: entries per lane to time look-ups in.
    """
    config = PRESETS[preset]
    spec = LaneEnvironments(env, 1, 0, config.environment).spec
    timed = TimedWorker(env, config, lanes, dtype)
    play = emulator(env, config, lanes)
    forward = forward_passes(spec, config.agent, lanes, dtype, CHUNK)
    play()
    forward()
    # About half of the steps are still in memory then, as episodes end.
    for _ in range(entries // CHUNK):
        timed.work()
    seconds = alternating_medians([play, forward, timed.work], repeats, time.process_time)
    emulator_rate, network_rate, worker_rate = (CHUNK * lanes / each for each in seconds)
    by_kind, total = timed.seconds_by_kind(max(2, repeats // 2))
    alone = {"networks": seconds[1] / seconds[2] * total}
    limit = 1 / (1 / emulator_rate + 1 / network_rate)
    held = float(timed.memory.sizes.mean())
    unit, label = "env steps/s", f"{env}, {preset}"
    figures = [
        Figure(f"emulator alone, {label}", emulator_rate, unit),
        Figure(f"five networks alone, {label}, {lanes} lanes, {dtype}", network_rate, unit),
        against(
            f"acting, {label}",
            worker_rate,
            unit,
            limit,
            target,
            f"{lanes} lanes, {dtype}, memories of {held:.0f}: {shares(alone | by_kind, total)}",
        ),
    ]
    own = by_kind["episodic memory"] / total * seconds[2]
    for count in memories:
        figures += _memory_figures(timed, lanes, count, (seconds[2] - own) / CHUNK, repeats)
    return figures


def _memory_figures(timed: TimedWorker, lanes: int, entries: int, rest: float, repeats: int) -> list[Figure]:
    """What looking up costs: of a lane step, if everything else takes ``rest`` seconds per step of all lanes, and
    against bare products with all entries, which read the same bytes.

    The first is of the machine as much, since looking up is bound by memory and the rest by arithmetic.
    """
    memory, embeddings = filled_memory(timed.memory, lanes, entries)
    stored, queries = torch.rand(lanes, embeddings.shape[1], entries), torch.from_numpy(embeddings)[:, None]
    calls = [lambda: torch.bmm(queries, stored), lambda: memory.bonus(embeddings)]
    for call in calls:
        call()
    bare, seconds = alternating_medians(calls, 3 * repeats, time.process_time)
    share = seconds / (seconds + rest)
    where = f"{1e6 * seconds / lanes:.0f} us of {1e6 * (seconds + rest) / lanes:.0f} us per lane step"
    name, target = f"{entries} entries", MEMORY_TARGETS.get(entries, "")
    return [
        Figure(
            f"episodic memory's share of a lane step, {name}", share, "of the time", 1.0, share, target, where, False
        ),
        against(f"episodic memory, looking up in {name}", lanes / seconds, "look-ups/s", lanes / bare),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="paper", choices=sorted(PRESETS))
    parser.add_argument("--env", default="ALE/Pong-v5")
    parser.add_argument("--lanes", type=int, default=32)
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--entries", type=int, default=1000, help="steps that each lane plays before it is timed")
    parser.add_argument("--memories", type=int, nargs="*", default=[], help="entries per lane to time look-ups in")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--target", default=">= 0.85", help="of the ratio, for the table")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    dtype = dtype_name(options.dtype)
    arguments = (options.env, options.preset, options.lanes, dtype, options.entries, options.repeats, options.target)
    report(measure(*arguments, options.memories), options.json)


if __name__ == "__main__":
    main()
