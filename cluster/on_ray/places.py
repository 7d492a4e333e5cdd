"""Where Ray is to put the processes of a run: learners and shards in one packed group, workers spread.

Owned by `cluster/on_ray/fleet.py`. `cluster/plan/placement.py` forecasts what comes of it.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

from ray.exceptions import RayError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.plan.placement import Load
from cluster.plan.topology import Topology
from cluster.run.errors import UserError
from cluster.run.messages import ESSENTIAL, ProcessId

PLACEMENT_TIMEOUT_SECONDS = 120.0


class Places:
    """The placement group of a run on a joined cluster; on a private Ray nothing reserves anything."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._group: PlacementGroup | None = None

    def reserve(self) -> None:
        """Get the group. Raises UserError if the cluster has no room for it."""
        topology = self._topology
        if not topology.joined:
            return
        bundles = [_resources(topology.learner)] * topology.num_learners
        bundles += [_resources(topology.shard)] * topology.replay_shards
        group = placement_group(bundles, strategy="PACK")
        if not group.wait(PLACEMENT_TIMEOUT_SECONDS):
            remove_placement_group(group)
            raise UserError(
                f"The cluster had no room for {topology.num_learners} learner(s) and {topology.replay_shards} replay "
                f"shard(s) within {PLACEMENT_TIMEOUT_SECONDS:g} s: something else uses it; try again, or lower them."
            )
        self._group = group

    def options(self, process: ProcessId) -> dict[str, Any]:
        """Ray's options that reserve what ``process`` takes, and say where."""
        kind, index = process
        topology = self._topology
        loads = {"learner": topology.learner, "replay": topology.shard, "worker": topology.worker}
        load = loads.get(kind, topology.evaluator if kind == "evaluator" else Load(0, 0, 0))
        # The weight server has no bundle of its own: it sits with the learner that publishes.
        bundles = {"learner": index, "replay": topology.num_learners + index, "weights": 0}
        strategy: Any = "SPREAD" if topology.joined else "DEFAULT"
        if self._group is not None and kind in bundles:
            strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundles[kind])
        return {"num_cpus": load.cores, "num_gpus": load.gpus, "scheduling_strategy": strategy}

    def victims(self, waiting: list[ProcessId], workers_by_node: dict[str, list[ProcessId]]) -> list[ProcessId]:
        """Workers whose cores would do for the learners and shards among ``waiting``.

        For all at once, because Ray gives a group's lost bundles new places together or not at all. None while the
        group has all its places: then they only start slowly.
        """
        if self._group is None or placement_group_table(self._group)["state"] == "CREATED":
            return []
        left = {node: list(workers) for node, workers in workers_by_node.items()}
        found: list[ProcessId] = []
        for kind, _ in waiting:
            if kind in ESSENTIAL and left:
                load = self._topology.learner if kind == "learner" else self._topology.shard
                # All on one node: a learner's cores must be side by side.
                workers = max(left.values(), key=len)
                found += [workers.pop() for _ in range(min(math.ceil(load.cores), len(workers)))]
        return found

    def release(self) -> None:
        """Give the group back."""
        if self._group is not None:
            with contextlib.suppress(RayError):
                remove_placement_group(self._group)


def _resources(load: Load) -> dict[str, float]:
    return {name: amount for name, amount in (("CPU", load.cores), ("GPU", load.gpus)) if amount}


def draining_nodes() -> set[str]:
    """Nodes that have been told to leave soon (a spot instance's notice, a scale-down)."""
    try:
        from ray._private.state import state

        return set(state.get_draining_nodes())
    except Exception:  # noqa: BLE001 (not a public interface of Ray's: without it, a notice goes unheard)
        return set()
