"""Where the processes of a run go: learners and shards close together, workers spread; a forecast of Ray's choice.

Ray decides for itself, by the same rules (`cluster/on_ray/fleet.py` asks for a packed placement group, and for spread
workers). The forecast is what the plan prints, and what tells before anything starts that something has no room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Node:
    """A machine: its cores, GPUs and memory that nothing has reserved yet."""

    name: str
    cores: float
    gpus: float
    memory_bytes: float


@dataclass(frozen=True)
class Load:
    """What one process takes: ``cores`` and ``gpus`` are reserved, ``memory_bytes`` is an upper estimate."""

    cores: float
    gpus: float
    memory_bytes: float


@dataclass
class Placement:
    """Processes by node. ``homeless`` are those (name, load) that no node has room for."""

    nodes: tuple[Node, ...]
    processes: list[list[str]]
    bytes_per_node: list[float]
    placed_workers: int = 0
    evaluator_has_room: bool = True
    homeless: list[tuple[str, Load]] = field(default_factory=list)

    @property
    def total_bytes(self) -> float:
        return sum(self.bytes_per_node)

    def describe(self, index: int) -> str:
        """One node's part of the plan, in a line."""
        node = self.nodes[index]
        counts = Counter(name.split()[0] for name in self.processes[index])
        parts = [f"{count} {kind}{'s' * (count > 1 and kind != 'replay')}" for kind, count in counts.items()]
        has = f"{node.cores:g} cores" + (f", {node.gpus:g} GPU{'s' * (node.gpus != 1)}" if node.gpus else "")
        memory = f"up to {self.bytes_per_node[index] / 1e9:.1f} of {node.memory_bytes / 1e9:.1f} GB"
        return f"{has}: {', '.join(parts) or 'nothing'}; {memory}"


def place(
    nodes: Sequence[Node],
    fixed: Sequence[tuple[str, Load]],
    evaluator: Load,
    worker: Load,
    num_workers: int,
    overhead: float,
) -> Placement:
    """Pack ``fixed`` (learners, then shards) onto few nodes, then spread the evaluator and ``num_workers`` workers.

    ``overhead``: bytes that every node in use spends on messages.
    """
    placement = Placement(tuple(nodes), [[] for _ in nodes], [overhead] * len(nodes))
    cores, gpus = [node.cores for node in nodes], [node.gpus for node in nodes]

    def has_room(index: int, load: Load) -> bool:
        return cores[index] >= load.cores - 1e-9 and gpus[index] >= load.gpus - 1e-9

    def put(index: int, name: str, load: Load) -> None:
        cores[index] -= load.cores
        gpus[index] -= load.gpus
        placement.processes[index].append(name)
        placement.bytes_per_node[index] += load.memory_bytes

    for name, load in fixed:
        # The node that holds most of them already; else the one with most GPUs, then cores, to spare.
        options = [index for index in range(len(nodes)) if has_room(index, load)]
        if not options:
            placement.homeless.append((name, load))
            continue
        put(max(options, key=lambda i: (len(placement.processes[i]), gpus[i], cores[i])), name, load)
    spread = [("evaluator 0", evaluator), *((f"worker {number}", worker) for number in range(num_workers))]
    order = spread[1:2] + spread[:1] + spread[2:]  # one worker comes before the evaluator, which can do without a core
    for name, load in order:
        options = [index for index in range(len(nodes)) if has_room(index, load)]
        if not options:
            if name.startswith("evaluator"):
                placement.evaluator_has_room = False
            continue
        put(max(options, key=lambda i: (cores[i], -len(placement.processes[i]))), name, load)
        placement.placed_workers += name.startswith("worker")
    return placement
