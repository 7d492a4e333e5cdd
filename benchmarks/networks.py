"""The five networks by themselves, as lanes use them: one step at a time, by number of lanes and by arithmetic.

    python -m benchmarks.networks [--lanes 1 32 128] [--device cpu] [--torso nfnet --screen 210x160] [--json]

The limit that acting is held against (`benchmarks.acting`). Needs neither Ray nor an emulator.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from actors.environments.config import EnvironmentConfig
from agent57.config import AgentConfig, Arithmetic, NetworkConfig
from agent57.networks import Agent57Networks
from agent57.structures import EnvironmentSpec
from agent57.torsos import resolve_torso_dtype, set_torso_dtype
from benchmarks.measure import Figure, alternating_medians, report

ATARI = EnvironmentSpec((1, 84, 84), "uint8", 255.0, 18)


def forward_passes(
    spec: EnvironmentSpec, agent: AgentConfig, lanes: int, dtype: str, steps: int, device: str = "cpu"
) -> Callable[[], None]:
    """``steps`` forward passes of all five networks on random observations of all lanes, as `Lanes` makes them."""
    five = Agent57Networks(spec, agent.family.num_policies, agent.network)
    set_torso_dtype(five, getattr(torch, dtype), cast_weights=dtype != "float32")
    five.to(device)
    if spec.observation_dtype == "uint8":
        observations = torch.randint(0, 256, (lanes, *spec.observation_shape), dtype=torch.uint8, device=device)
    else:
        observations = torch.rand(lanes, *spec.observation_shape, device=device)
    actions = torch.zeros(lanes, dtype=torch.int64, device=device)
    rewards = torch.zeros(lanes, device=device)
    zeros = torch.zeros(lanes, agent.network.lstm_size, device=device)
    state = (zeros, zeros)

    @torch.inference_mode()
    def forward() -> None:
        for _ in range(steps):
            arranged = five.q_ext.torso.arrange(observations)
            for network in five.q_networks:
                network.step(arranged, actions, rewards, rewards, actions, state)
            five.embedding(arranged)
            five.rnd(arranged)
        if observations.is_cuda:
            torch.cuda.synchronize()

    return forward


def add_torso_arguments(parser: argparse.ArgumentParser) -> None:
    """``--torso`` and ``--screen``, read by `torso_asked_for`."""
    parser.add_argument("--torso", default="conv", choices=["conv", "nfnet"])
    parser.add_argument("--screen", default="84x84", choices=["84x84", "210x160"])


def torso_asked_for(options: argparse.Namespace) -> tuple[EnvironmentSpec, AgentConfig]:
    """Atari's observations and the paper's agent, with that torso and that screen."""
    screen = EnvironmentConfig(screen=options.screen).screen_size
    agent = AgentConfig(network=NetworkConfig(torso=options.torso))
    return EnvironmentSpec((1, *screen), "uint8", 255.0, 18), agent


def dtype_name(wanted: Arithmetic, device: str = "cpu") -> Arithmetic:
    """ "float32" or "bfloat16": what "auto" means on this machine."""
    return "bfloat16" if resolve_torso_dtype(wanted, device) == torch.bfloat16 else "float32"


def measure(
    spec: EnvironmentSpec,
    agent: AgentConfig,
    lanes: list[int],
    dtypes: list[str],
    device: str,
    repeats: int,
    steps: int,
) -> list[Figure]:
    """Rates of the agent's networks for every number of lanes in every arithmetic."""
    cells = [(count, dtype) for count in lanes for dtype in dtypes]
    calls = [forward_passes(spec, agent, count, dtype, steps, device) for count, dtype in cells]
    for call in calls:
        call()
    seconds = alternating_medians(calls, repeats)
    return [
        Figure(f"five networks alone, {count} lanes, {dtype}, {device}", count * steps / each, "lane steps/s")
        for (count, dtype), each in zip(cells, seconds, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 8, 32, 64, 128])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10, help="of each lane in one timed piece")
    parser.add_argument("--repeats", type=int, default=5)
    add_torso_arguments(parser)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = measure(
        *torso_asked_for(options), options.lanes, options.dtypes, options.device, options.repeats, options.steps
    )
    report(figures, options.json)


if __name__ == "__main__":
    main()
