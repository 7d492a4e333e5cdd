"""Runs in a rival's own environment: fills its prioritized replay with sequences, samples batches, prints the speed.

    python rival_replay.py cpprb|torchrl|dm-reverb SEQUENCES.npz BATCH

Nothing of this project is imported. One core, one thread, as it comes out of the box: numpy arrays (cpprb,
dm-reverb) or torch tensors in memory, observations uint8 as they are.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

Items = dict[str, np.ndarray]
REPEATS = 15
EXPONENT = 0.9


def cpprb(items: Items, batch: int) -> Callable[[], np.ndarray]:
    from cpprb import PrioritizedReplayBuffer

    count = len(items["actions"])
    shapes = {name: {"shape": array.shape[1:], "dtype": array.dtype} for name, array in items.items()}
    replay = PrioritizedReplayBuffer(count, shapes, alpha=EXPONENT)
    rng = np.random.default_rng(0)
    for index in range(count):
        replay.add(priorities=rng.uniform(0.1, 10), **{name: array[index] for name, array in items.items()})
    return lambda: replay.sample(batch)["observations"]


def torchrl(items: Items, batch: int) -> Callable[[], np.ndarray]:
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, TensorDictPrioritizedReplayBuffer

    torch.set_num_threads(1)
    count = len(items["actions"])
    storage = LazyTensorStorage(count)
    replay = TensorDictPrioritizedReplayBuffer(
        alpha=EXPONENT, beta=0.0, storage=storage, batch_size=batch, priority_key="td_error"
    )
    data = TensorDict({name: torch.from_numpy(array) for name, array in items.items()}, batch_size=[count])
    data["td_error"] = torch.rand(count) * 10 + 0.1
    replay.extend(data)
    return lambda: replay.sample()["observations"].numpy()


def dm_reverb(items: Items, batch: int) -> Callable[[], np.ndarray]:
    import reverb

    count = len(items["actions"])
    table = reverb.Table(
        name="replay",
        sampler=reverb.selectors.Prioritized(EXPONENT),
        remover=reverb.selectors.Fifo(),
        max_size=count,
        rate_limiter=reverb.rate_limiters.MinSize(1),
    )
    server = reverb.Server([table])
    client = reverb.Client(f"localhost:{server.port}")
    rng = np.random.default_rng(0)
    names = list(items)
    for index in range(count):
        client.insert([items[name][index] for name in names], {"replay": rng.uniform(0.1, 10)})

    def sample() -> np.ndarray:
        found = [steps[0].data[names.index("observations")] for steps in client.sample("replay", batch)]
        return np.stack(found)

    sample.server = server  # type: ignore[attr-defined]  # Lives as long as the function does.
    return sample


def main() -> None:
    name, path, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with np.load(path) as saved:
        items = dict(saved)
    sample = {"cpprb": cpprb, "torchrl": torchrl, "dm-reverb": dm_reverb}[name](items, batch)
    expected = batch * items["observations"][0].nbytes
    seconds = []
    for _ in range(REPEATS + 2):
        start = time.perf_counter()
        observations = sample()
        seconds.append(time.perf_counter() - start)
        if observations.nbytes != expected:
            raise SystemExit(f"{name} delivered {observations.nbytes} bytes, expected {expected}")
    print(json.dumps({"gb_per_second": expected / statistics.median(seconds[2:]) / 1e9}))


if __name__ == "__main__":
    main()
