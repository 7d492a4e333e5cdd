"""Everything worth knowing of a GPU in one call of less than ten minutes, most important first.

    python -m benchmarks.gpu_hour [--minutes 9] [--out FOLDER] [--toy] [--device cuda]
    python -m benchmarks.gpu_hour --record benchmarks/pong_sequences.npz     # needs an emulator; the file is in git

Needs torch and numpy alone. Peaks of the device; whether its updates are the CPU's; learners of presets ``paper`` and
``meme`` at batch 64 x 160 on recorded Pong, plain and as a graph, in every arithmetic, against what their operations
take at those peaks; what bfloat16 and TF32 do to Q-values; acting by number of lanes; the NFNet torso; a profile of
kernels. Rows are printed, and written to FOLDER/rows.json after each part, so that a call that is cut short leaves what
it has.
``--toy``: sizes of seconds, for a CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from agent57.config import AgentConfig, NetworkConfig
from agent57.errors import scaled_batch
from agent57.networks import RecurrentNetwork
from agent57.structures import SequenceBatch
from agent57.terms.q_td import unroll
from agent57.torsos import set_torso_dtype
from benchmarks.measure import Figure, against, report
from benchmarks.networks import forward_passes
from benchmarks.recorded_pong import record, recorded_batch, spec_of
from cluster.run.presets import MEME, PAPER
from learner.config import LearnerConfig
from learner.learner import Learner

PARTS = ("peaks", "equality", "learners", "arithmetic", "acting", "nfnet", "profile")
AGENTS = {"paper": PAPER.agent, "meme": MEME.agent}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured, and how often."""

    batch: int = 64
    length: int = 160
    repeats: int = 7
    lanes: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    matrix: int = 8192
    nfnet_batch: int = 16
    network: NetworkConfig | None = None
    """In place of the presets' own."""


TOY = Sizes(2, 6, 2, (2, 4), 128, 2, NetworkConfig(conv_filters=(4, 4, 4), torso_size=16, lstm_size=16, head_size=16))


def lstm_flops(learner: Learner, batch: SequenceBatch[Any]) -> float:
    """Of the LSTMs in one update, which torch's counter does not know: forward, backward, and the targets forward."""
    frames = batch.actions.shape[0] * batch.actions.shape[1]
    each = [
        2 * 4 * network.lstm_size * (network.lstm.input_size + network.lstm_size)
        for network in learner.networks.q_networks
    ]
    return 4.0 * frames * sum(each)


@torch.no_grad()
def values(
    network: RecurrentNetwork, seen: SequenceBatch[torch.Tensor], dtype: torch.dtype, tf32: bool
) -> torch.Tensor:
    """A network's outputs in this arithmetic of torsos and of everything else."""
    set_torso_dtype(network, dtype)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    return unroll(network, seen, 0, 0)


class GpuHour:
    """The parts, in their order; each yields rows."""

    def __init__(self, device: str, sizes: Sizes) -> None:
        self.device, self.sizes = torch.device(device), sizes
        self.peaks: dict[str, float] = {}
        """Operations per second that large products reach, by arithmetic; unknown without the first part."""
        self.profile = ""

    def parts(self) -> list[tuple[str, Callable[[], Iterator[Figure]]]]:
        measures = (
            *(self.measure_peaks, self.compare_with_the_cpu, self.learners, self.what_arithmetic_does),
            *(self.acting, self.nfnet, self.kernels),
        )
        return list(zip(PARTS, measures, strict=True))

    def agent(self, name: str) -> AgentConfig:
        agent = AGENTS[name]
        if self.sizes.network is not None:
            kind, head = agent.network.kind, agent.network.policy_head
            agent = dataclasses.replace(
                agent, network=dataclasses.replace(self.sizes.network, kind=kind, policy_head=head)
            )
        return agent

    def peak(self, arithmetic: str) -> float:
        if not self.peaks:
            list(self.measure_peaks())
        return self.peaks[arithmetic]

    def seconds(self, call: Callable[[], object]) -> float:
        """Median time of ``call`` with all that it starts on the device, after two more."""
        times = []
        for _ in range(self.sizes.repeats + 2):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            times.append(time.perf_counter() - start)
        return float(np.median(times[2:]))

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak_memory(self) -> float:
        """GB held at most since the last call, on a GPU."""
        if self.device.type != "cuda":
            return 0.0
        held = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
        return held

    def measure_peaks(self) -> Iterator[Figure]:
        side = self.sizes.matrix
        for name, dtype, tf32 in (
            ("bfloat16", torch.bfloat16, False),
            ("tf32", torch.float32, True),
            ("float32", torch.float32, False),
        ):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            one = torch.randn(side, side, device=self.device, dtype=dtype)
            self.peaks[name] = 2 * side**3 / self.seconds(functools.partial(torch.mm, one, one))
            yield Figure(f"gpu: product of matrices, {name}", self.peaks[name] / 1e12, "TFLOP/s")
        torch.backends.cuda.matmul.allow_tf32 = False
        block = torch.empty(side * side * 4, dtype=torch.uint8, device=self.device)
        copied = 2 * block.numel() / self.seconds(lambda: block.clone())
        yield Figure("gpu: copy within its memory", copied / 1e9, "GB/s")
        host = torch.empty(block.shape, dtype=torch.uint8)
        if self.device.type == "cuda":
            host = host.pin_memory()
        fetched = block.numel() / self.seconds(lambda: block.copy_(host, non_blocking=True))
        yield Figure("gpu: from page-locked memory", fetched / 1e9, "GB/s")
        small = torch.zeros(1, device=self.device)

        def launches() -> None:
            for _ in range(1000):
                small.add_(1)

        yield Figure("gpu: launch of a kernel", self.seconds(launches) * 1e3, "microseconds")

    def learner(self, agent: AgentConfig, screen: tuple[int, int] = (84, 84), **config: Any) -> Learner:
        spec = spec_of(agent, self.sizes.length, screen).environment
        how: dict[str, Any] = {"device": str(self.device), "batch_size": self.sizes.batch, **config}
        return Learner(agent, LearnerConfig(**how), spec, seed=0)

    def compare_with_the_cpu(self) -> Iterator[Figure]:
        """Three updates of small networks on both, plain and as a graph."""
        for name in AGENTS:
            agent = dataclasses.replace(
                AGENTS[name],
                network=dataclasses.replace(
                    AGENTS[name].network, conv_filters=(8, 8, 8), torso_size=32, lstm_size=32, head_size=32
                ),
            )
            spec = spec_of(agent, 12)
            batch = recorded_batch(spec, 4, agent.family.num_policies)
            for compile in ("off", "auto"):
                learners = [
                    Learner(agent, LearnerConfig(device=device, compile=compile), spec.environment, seed=0)
                    for device in ("cpu", str(self.device))
                ]
                for _ in range(6):
                    one, other = (learner.update(batch).metrics for learner in learners)
                worst = max(abs(other[tag] - value) / max(abs(value), 1e-2) for tag, value in one.items())
                yield Figure(
                    f"gpu: metrics of the 6th update beside the CPU's, {name}, compile {compile}",
                    worst,
                    "of their size",
                    target="<= 0.02",
                )

    def learners(self) -> Iterator[Figure]:
        sizes = self.sizes
        for name in AGENTS:
            agent = self.agent(name)
            spec = spec_of(agent, sizes.length)
            batch = self.fed(recorded_batch(spec, sizes.batch, agent.family.num_policies))
            for dtype, precision, compile in (
                ("bfloat16", "tf32", "auto"),
                ("bfloat16", "tf32", "off"),
                ("bfloat16", "float32", "auto"),
                ("float32", "float32", "off"),
            ):
                self.peak_memory()
                learner = self.learner(agent, torso_dtype=dtype, matrix_precision=precision, compile=compile)
                with FlopCounterMode(display=False) as counter:
                    learner.update(batch)
                for _ in range(4):
                    learner.update(batch)
                seconds = self.overlapping(learner, batch)
                convolutions, recurrent = counter.get_total_flops(), lstm_flops(learner, batch)
                floor = convolutions / self.peak("bfloat16" if dtype == "bfloat16" else precision)
                floor += recurrent / self.peak(precision)
                where = (
                    f"{(convolutions + recurrent) / 1e12:.3g} TFLOP, {self.peak_memory():.1f} GB, "
                    f"one by one {1 / self.seconds(functools.partial(learner.update, batch)):.3g}/s"
                )
                how = f"torsos {dtype}, {precision}, graph {compile}"
                yield against(
                    f"gpu: learner {name}, {sizes.batch} x {sizes.length}, {how}",
                    1 / seconds,
                    "updates/s",
                    1 / floor,
                    where=where,
                )
                del learner

    def fed(self, batch: SequenceBatch[np.ndarray]) -> SequenceBatch[Any]:
        return batch.pinned() if self.device.type == "cuda" else batch

    def overlapping(self, learner: Learner, batch: SequenceBatch[Any]) -> float:
        """Seconds per update where one is at work while the next is started, as in training."""
        count = 4 * self.sizes.repeats
        self.wait()
        start = time.perf_counter()
        before = learner.start(batch)
        for _ in range(count - 1):
            started = learner.start(batch)
            learner.finish(before)
            before = started
        learner.finish(before)
        return (time.perf_counter() - start) / count

    def what_arithmetic_does(self) -> Iterator[Figure]:
        """Q-values on recorded sequences, against float32 throughout."""
        for name in AGENTS:
            agent = self.agent(name)
            spec = spec_of(agent, self.sizes.length)
            learner = self.learner(agent, matrix_precision="float32")
            size = min(8, self.sizes.batch)
            batch = recorded_batch(spec, size, agent.family.num_policies).to_torch(self.device)
            seen = scaled_batch(batch, learner.networks.scales)
            network = learner.networks.q_networks[0]

            exact = values(network, seen, torch.float32, False)
            for label, dtype, tf32 in (
                ("tf32", torch.float32, True),
                ("bfloat16 torsos", torch.bfloat16, False),
                ("bfloat16 torsos, tf32", torch.bfloat16, True),
            ):
                rounded = values(network, seen, dtype, tf32)
                off = ((rounded - exact).abs().mean() / exact.abs().mean()).item()
                agree = (rounded.argmax(-1) == exact.argmax(-1)).float().mean().item()
                yield Figure(
                    f"gpu: Q-values of {name}, {label}, off by",
                    off,
                    "of |Q|",
                    where=f"greedy actions agree: {agree:.4f}",
                )

    def acting(self) -> Iterator[Figure]:
        agent = self.agent("paper")
        spec = spec_of(agent, self.sizes.length).environment
        for lanes in self.sizes.lanes:
            for dtype in ("bfloat16", "float32"):
                call = forward_passes(spec, agent, lanes, dtype, 5, str(self.device))
                rate = 5 * lanes / self.seconds(call)
                yield Figure(f"gpu: five networks alone, {lanes} lanes, {dtype}", rate, "lane steps/s")

    def nfnet(self) -> Iterator[Figure]:
        agent = self.agent("meme")
        network = dataclasses.replace(agent.network, torso="nfnet")
        if self.sizes.network is not None:
            network = dataclasses.replace(network, nfnet_filters=(4, 4, 4, 4))
        agent = dataclasses.replace(agent, network=network)
        for screen in ((84, 84), (210, 160)):
            spec = spec_of(agent, self.sizes.length, screen)
            batch = self.fed(recorded_batch(spec, self.sizes.nfnet_batch, agent.family.num_policies))
            self.peak_memory()
            learner = self.learner(
                agent, screen, torso_dtype="bfloat16", matrix_precision="tf32", batch_size=self.sizes.nfnet_batch
            )
            for _ in range(5):
                learner.update(batch)
            seconds = self.overlapping(learner, batch)
            name = (
                f"gpu: learner meme, NFNet, {screen[0]} x {screen[1]}, {self.sizes.nfnet_batch} x {self.sizes.length}"
            )
            yield Figure(name, 1 / seconds, "updates/s", where=f"{self.peak_memory():.1f} GB")
            del learner

    def kernels(self) -> Iterator[Figure]:
        """One update of ``meme`` without a graph, by kernel: in `profile`."""
        from torch.profiler import ProfilerActivity, profile

        agent = self.agent("meme")
        batch = recorded_batch(spec_of(agent, self.sizes.length), self.sizes.batch, agent.family.num_policies)
        learner = self.learner(agent, torso_dtype="bfloat16", matrix_precision="tf32", compile="off")
        for _ in range(3):
            learner.update(batch)
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self.device.type == "cuda")
        with profile(activities=activities) as profiled:
            learner.update(batch)
            self.wait()
        by = "self_cuda_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        events = profiled.key_averages()
        self.profile = events.table(sort_by=by, row_limit=25)
        yield Figure("gpu: operations of an update of meme", float(sum(event.count for event in events)), "calls")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--minutes", type=float, default=9.0, help="no part begins after this")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_hour"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts, all by default")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    if options.record:
        record(options.record)
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here: --toy --device cpu tries the program on the CPU")
    if options.device == "cpu" and not options.toy:
        parser.error("there is no GPU here: --toy tries the program on the CPU")
    options.out.mkdir(parents=True, exist_ok=True)
    start, hour = time.monotonic(), GpuHour(options.device, TOY if options.toy else Sizes())
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
    figures, failed = [], False
    for part, measure in hour.parts():
        if part not in options.only:
            continue
        if time.monotonic() - start > 60 * options.minutes:
            figures.append(Figure(f"gpu: {part}", None, "", where="not measured: the time was up"))
            continue
        try:
            figures += measure()
        except Exception as error:  # noqa: BLE001 (the parts behind it are worth having all the same)
            failed = True
            traceback.print_exc()
            figures.append(Figure(f"gpu: {part}", None, "", where=f"failed: {type(error).__name__}: {error}"))
        rows = {"device": name, "torch": torch.__version__, "figures": [asdict(figure) for figure in figures]}
        (options.out / "rows.json").write_text(json.dumps(rows, indent=2))
        (options.out / "profile.txt").write_text(hour.profile)
        print(f"{part}: {time.monotonic() - start:.0f} s", flush=True)
    print(f"{name}, torch {torch.__version__}")
    report(figures, as_json=False)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
