"""What the command line does: train, eval and doctor. `launch.py` parses, this module acts.

Everything that can be wrong with the input is found before any process starts, and told as one sentence
(`UserError`).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import platform
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from actors.atari_scores import game_of, human_normalised_score
from actors.environments import UnsupportedEnvironment, environment_spec, frames_per_step
from actors.evaluator import Evaluator
from agent57.networks import Agent57Networks, flatten_weights
from agent57.structures import SequenceSpec
from cluster.checkpoint import Checkpoints, load_tree
from cluster.config import TrainConfig, load_config, save_config
from cluster.console import print_plan
from cluster.errors import UserError
from cluster.supervisor import Fleet, Supervisor
from cluster.topology import Topology, plan_rows, plan_topology

if TYPE_CHECKING:
    from cluster.ray_session import RaySession

VERSIONED = ("torch", "ray", "gymnasium", "ale-py", "numpy", "tensorboard", "zstandard", "tyro", "rich")


def train(config: TrainConfig, preset: str, resume: Path | None) -> int:
    """Train until a limit, Ctrl-C or SIGTERM; returns the exit code. ``resume`` is a run folder to go on in."""
    console = Console()
    spec = _sequence_spec(config)
    session, topology = _plan(config, spec)
    try:
        return _train(config, preset, resume, console, spec, session, topology)
    finally:
        if session is not None:
            session.close()


def _plan(config: TrainConfig, spec: SequenceSpec) -> tuple[RaySession | None, Topology]:
    """The plan, and the connection to the cluster it was made for, if one is to be joined."""
    if not config.cluster.address or config.serial:
        return None, plan_topology(config, spec)
    from cluster.ray_environment import prepare_ray_environment

    prepare_ray_environment(private=False)
    from cluster.ray_session import cluster_nodes, join_cluster

    session = join_cluster(config)
    try:
        return session, plan_topology(config, spec, cluster_nodes())
    except BaseException:
        session.close()
        raise


def _train(
    config: TrainConfig,
    preset: str,
    resume: Path | None,
    console: Console,
    spec: SequenceSpec,
    session: RaySession | None,
    topology: Topology,
) -> int:
    checkpoint = None
    if resume is not None:
        run_dir = resume
        _refuse_other_agent(load_config(run_dir / "config.json"), config)
        checkpoint = Checkpoints(run_dir, config.checkpoint.keep).latest_or_error(console.print)
    else:
        run_dir = Path(config.run_dir) if config.run_dir else _default_run_dir(config, preset)
        if (run_dir / "config.json").exists():
            raise UserError(f"{run_dir} already holds a run: go on with --resume {run_dir}, or name another --run-dir.")
    rows = plan_rows(config, spec, topology, run_dir)
    print_plan(rows, console)
    _make_run_dir(run_dir)
    save_config(config, run_dir / "config.json")
    versions = {name: importlib.metadata.version(name) for name in VERSIONED} | {"python": platform.python_version()}
    (run_dir / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")

    fleet = _make_fleet(config, topology, session, run_dir)
    supervisor = Supervisor(config, topology, fleet, run_dir, frames_per_step(config.env, config.environment))
    try:
        # After the fleet: ray.init installs a SIGTERM handler of its own.
        _stop_on_signals(supervisor)
        supervisor.describe_run(
            {"run/plan": _table(rows), "run/config": _json_text(config), "run/versions": _table(list(versions.items()))}
        )
        why = supervisor.run(checkpoint)
    finally:
        fleet.close()
    console.print(
        f"Stopped: {why}. {supervisor.env_frames:,} environment frames, {supervisor.learner_updates:,} updates.\n"
        f"Go on with: python launch.py train --resume {run_dir}\n"
        f"Evaluate:   python launch.py eval {run_dir}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


FIXED_OVER_RESUME = ("env", "network", "sequence.trace_length", "family.num_policies", "bandit.scope")
"""What a checkpoint was made with and cannot do without."""


def _refuse_other_agent(saved: TrainConfig, config: TrainConfig) -> None:
    for path in FIXED_OVER_RESUME:
        before, after = (functools.reduce(getattr, path.split("."), whole) for whole in (saved, config))
        if before != after:
            raise UserError(f"{path.replace('_', '-')} cannot change over a resume: start a new run for that.")


def _make_fleet(config: TrainConfig, topology: Topology, session: RaySession | None, run_dir: Path) -> Fleet:
    if config.serial:
        from cluster.serial_fleet import SerialFleet

        return SerialFleet(config)
    from cluster.ray_environment import prepare_ray_environment

    prepare_ray_environment(private=session is None)
    from cluster.ray_fleet import RayFleet

    return RayFleet(config, topology, session, run_dir)


def _sequence_spec(config: TrainConfig) -> SequenceSpec:
    try:
        spec = environment_spec(config.env, config.environment)
        Agent57Networks(spec, config.family.num_policies, config.network)
    except UnsupportedEnvironment as error:
        raise UserError(str(error)) from None
    except (ValueError, RuntimeError) as error:
        raise UserError(f"No network can be built for {config.env}: {error}") from None
    return SequenceSpec(spec, config.sequence.trace_length, config.network.lstm_size)


def _default_run_dir(config: TrainConfig, preset: str) -> Path:
    name = config.env.replace("/", "-").replace(":", "-")
    return Path("runs") / f"{name}-{preset}-seed{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"


def _make_run_dir(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        probe = run_dir / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{run_dir} cannot be written ({error.strerror}): name another --run-dir.") from None


def _stop_on_signals(supervisor: Supervisor) -> None:
    """The first Ctrl-C or SIGTERM asks for a clean stop, a second Ctrl-C stops at once."""

    def stop(number: int, frame: Any) -> None:
        name = signal.Signals(number).name
        supervisor.request_stop(name)
        supervisor.telemetry.note(f"{name}: writing a checkpoint; once more to stop without", supervisor.env_frames)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def _json_text(config: TrainConfig) -> str:
    return "```json\n" + json.dumps(dataclasses.asdict(config), indent=2) + "\n```"


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def evaluate(run_dir: Path, episodes: int, policy_index: int | None, lanes: int, seed: int) -> int:
    """Play greedy episodes with a run's newest checkpoint and print the score; returns the exit code.

    The policy is the greedy arm of the run's evaluator unless ``policy_index`` names one.
    """
    console = Console()
    if episodes < 1 or lanes < 1:
        raise UserError("--episodes and --lanes must be at least 1.")
    config = load_config(run_dir / "config.json")
    spec = _sequence_spec(config)
    checkpoint = Checkpoints(run_dir, 1).latest_or_error(console.print)
    arm = _greedy_arm(config, checkpoint) if policy_index is None else policy_index
    if not 0 <= arm < config.family.num_policies:
        raise UserError(f"--policy-index must lie between 0 and {config.family.num_policies - 1}.")
    evaluator = Evaluator(
        config.env,
        config.agent,
        config.evaluation,
        config.environment,
        seed,
        config.actor.torso_dtype,
        num_lanes=min(lanes, episodes),
    )
    networks = Agent57Networks(spec.environment, config.family.num_policies, config.network)
    state = load_tree(checkpoint, "learner")
    networks.load_state_dict(state["networks"])
    evaluator.set_weights(state["updates"], flatten_weights(networks))
    returns = _play(evaluator, arm, episodes)
    _print_scores(console, config, checkpoint, arm, returns)
    return 0


def _greedy_arm(config: TrainConfig, checkpoint: Path) -> int:
    """The evaluator's greedy arm; before its first episode, training's favourite."""
    from cluster.meta_controller import MetaController

    state = load_tree(checkpoint, "supervisor")
    bandit = state["evaluator_bandit"]
    if bandit is not None and bandit["arms"]:
        means: dict[int, list[float]] = {}
        for arm, value in zip(bandit["arms"], bandit["returns"], strict=True):
            means.setdefault(arm, []).append(value)
        return max(means, key=lambda arm: float(np.mean(means[arm])))
    meta = MetaController(
        config.bandit, config.family.num_policies, len(state["meta_controller"]["demand"]), config.seed
    )
    meta.load_state_dict(state["meta_controller"])
    return meta.favourite_arm()


def _play(evaluator: Evaluator, arm: int, episodes: int) -> list[float]:
    """Returns of ``episodes`` episodes, played in rounds of all lanes.

    Every episode of a round counts: taking the first to finish would favour short ones.
    """
    returns: list[float] = []
    while len(returns) < episodes:
        evaluator.begin_with([arm] * evaluator.num_lanes)
        finished = {}
        while evaluator.playing:
            finished |= {episode.lane: episode.extrinsic_return for episode in evaluator.play(1000)}
        returns += [finished[lane] for lane in sorted(finished)]
    return returns[:episodes]


def _print_scores(console: Console, config: TrainConfig, checkpoint: Path, arm: int, returns: list[float]) -> None:
    scores = np.array(returns)
    rows = [
        ("environment", config.env),
        ("checkpoint", str(checkpoint)),
        ("policy", f"{arm} of {config.family.num_policies}, epsilon {config.evaluation.epsilon:g}"),
        ("episodes", str(len(scores))),
        ("mean", f"{scores.mean():.2f}"),
        ("median", f"{np.median(scores):.2f}"),
        ("spread", f"std {scores.std():.2f}, {scores.min():g} to {scores.max():g}"),
    ]
    game = game_of(config.env)
    if game is not None:
        score = human_normalised_score(game, float(scores.mean()))
        rows.append(("human-normalised", f"{100 * score:.1f} % (0 % random, 100 % human; Badia et al. 2020)"))
    print_plan(rows, console)


def doctor() -> int:
    """Check this machine; returns 0, or 2 if something prevents training."""
    from cluster.doctor import run_doctor

    return run_doctor(Console())
