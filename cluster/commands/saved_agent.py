"""The agent that a run's newest checkpoint holds: what evaluation and export start from."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.environments.contract import UnsupportedEnvironment
from actors.environments.trial import try_environment
from actors.evaluator import best_arm, lanes_of
from actors.extensions import UnusableExtension, load_extensions, refuse_untrusted_extensions
from actors.trusted_modules import UntrustedModule, refuse_untrusted
from agent57.bandit import SlidingWindowUCB
from agent57.config import config_from_dict
from agent57.networks import Agent57Networks
from agent57.novelty import make_networks
from agent57.structures import EnvironmentSpec
from cluster.run.checkpoint import Checkpoints, frames_of, load_tree, restoring
from cluster.run.command_line import TRUST_REMEDY
from cluster.run.config import TrainConfig, load_config
from cluster.run.errors import UserError
from cluster.run.run_folder import ENVIRONMENT_FILE
from replay.plain_files import read_json


@dataclass(frozen=True)
class SavedAgent:
    """``networks`` are the learner's; ``greedy_arm`` the one that the evaluator would score next.

    ``running_state``: the moments of novelty that training's first worker had (`Lanes.running_state`), or None.
    """

    config: TrainConfig
    spec: EnvironmentSpec
    first_action: int
    checkpoint: Path
    env_frames: int
    updates: int
    networks: Agent57Networks
    greedy_arm: int
    running_state: dict[str, Any] | None

    def policy(self, policy_index: int | None) -> int:
        """``policy_index``, or the greedy arm for None; UserError if there is no such policy."""
        arm = self.greedy_arm if policy_index is None else policy_index
        if not 0 <= arm < self.config.family.num_policies:
            raise UserError(f"--policy-index must lie between 0 and {self.config.family.num_policies - 1}.")
        return arm


def load_agent(
    run_dir: Path, on_damaged: Callable[[str], None], trust_modules: Collection[str] = (), plays: bool = True
) -> SavedAgent:
    """The newest usable checkpoint of ``run_dir``; UserError without one, or if what it imports is not trusted.

    Unless it ``plays``, its environment is not needed: what it looks like stands in the run's folder.
    """
    config = load_config(run_dir / "config.json")
    try:
        refuse_untrusted_extensions(config.agent, trust_modules, run_dir, TRUST_REMEDY)
        load_extensions(config.agent)
        looks = None if plays else _environment_of(run_dir)
        if looks is None:
            refuse_untrusted(config.env, trust_modules, run_dir, TRUST_REMEDY)
            trial = try_environment(config.env, config.environment)
            looks = trial.spec, trial.first_action
    except (UnsupportedEnvironment, UntrustedModule, UnusableExtension) as error:
        raise UserError(str(error)) from None
    checkpoints = Checkpoints(run_dir, 1)
    while True:
        checkpoint = checkpoints.latest_or_error(on_damaged)
        try:
            with restoring(checkpoint):
                return _agent_of(config, *looks, checkpoint)
        except UserError:
            # A run that goes on removes old checkpoints: then there is a newer one.
            if checkpoint.exists():
                raise


def _environment_of(run_dir: Path) -> tuple[EnvironmentSpec, int] | None:
    """(spec, first action) of the run's environment as its folder tells; None where it does not."""
    try:
        found = read_json(run_dir / ENVIRONMENT_FILE)
        return config_from_dict(EnvironmentSpec, found["spec"], "spec."), int(found["first_action"])
    except (OSError, LookupError, TypeError, ValueError):
        return None


def _agent_of(config: TrainConfig, spec: EnvironmentSpec, first_action: int, checkpoint: Path) -> SavedAgent:
    networks = make_networks(config.agent, spec).requires_grad_(False)
    learner, supervisor = load_tree(checkpoint, "learner"), load_tree(checkpoint, "supervisor")
    networks.load_state_dict(learner["networks"])
    running_states = supervisor.get("running_states") or {}
    return SavedAgent(
        config=config,
        spec=spec,
        first_action=first_action,
        checkpoint=checkpoint,
        env_frames=frames_of(checkpoint),
        updates=learner["updates"],
        networks=networks,
        greedy_arm=_greedy_arm(config, supervisor),
        running_state=running_states[min(running_states)] if running_states else None,
    )


def _greedy_arm(config: TrainConfig, supervisor: dict[str, Any]) -> int:
    """The arm that the evaluator would score next."""
    from cluster.runtime.meta_controller import MetaController

    evaluation, arms = config.evaluation, config.family.num_policies
    if evaluation.policy_index is not None:
        return evaluation.policy_index
    saved = supervisor["meta_controller"]
    meta = MetaController(config.bandit, arms, len(saved["demand"]), config.seed)
    meta.load_state_dict(saved)
    if supervisor["evaluator_bandit"] is not None:
        bandit = SlidingWindowUCB(arms, evaluation.bandit_window, 0.0, 0.0, np.random.default_rng(0))
        bandit.load_state_dict(supervisor["evaluator_bandit"])
        best = best_arm(bandit, lanes_of(evaluation, arms), meta.means)
        if best is not None:
            return best
    return meta.favourite_arm()


def versions_of(run_dir: Path) -> dict[str, str]:
    """The packages that a run was made with; empty where the file is missing."""
    try:
        found = read_json(run_dir / "versions.json")
    except (OSError, ValueError):
        return {}
    return {str(name): str(version) for name, version in found.items()} if isinstance(found, dict) else {}
