"""What ``launch.py train`` does once its flags are understood.

Everything that can be wrong with the input is found before any process starts, and told as one sentence
(`UserError`).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from actors.environments.atari.scores import game_of, human_normalised_score
from actors.environments.contract import UnsupportedEnvironment, frames_per_step
from actors.environments.door import in_words
from actors.environments.trial import try_environment
from actors.evaluator import EVALUATION_STEPS
from actors.trusted_modules import module_of
from agent57.novelty import make_networks
from agent57.structures import SequenceSpec
from cluster.commands.doctor import check_temporary_folder
from cluster.plan.topology import Topology, plan_rows, plan_topology
from cluster.run.checkpoint import Checkpoints
from cluster.run.config import TrainConfig, load_config, save_config
from cluster.run.errors import UserError
from cluster.run.resumed import refuse_other_agent
from cluster.run.run_folder import CONFIG_FILE, ENVIRONMENT_FILE, VERSIONS_FILE, new_folder, owning, refuse_used
from cluster.runtime.fleet import Fleet
from cluster.runtime.stopping import StopSignals
from cluster.runtime.supervisor import Supervisor
from cluster.telemetry.console import format_duration, print_plan, say
from cluster.telemetry.metrics import plain
from replay.whole_files import write_whole

if TYPE_CHECKING:
    from cluster.on_ray.session import RaySession

VERSIONED = ("torch", "ray", "gymnasium", "ale-py", "numpy", "tensorboard", "zstandard", "tyro", "rich")


def train(config: TrainConfig, preset: str, resume: Path | None) -> int:
    """Train until a limit, Ctrl-C, SIGTERM or SIGHUP; returns the exit code. ``resume``: a run folder to go on in."""
    console = Console()
    with StopSignals() as signals:
        try:
            return _train_until_stopped(config, preset, resume, console, signals)
        except KeyboardInterrupt:
            say(console, f"{signals.last.name}: stopped at once, without a checkpoint.")
            return 128 + signals.last  # as shells have it


def _train_until_stopped(
    config: TrainConfig, preset: str, resume: Path | None, console: Console, signals: StopSignals
) -> int:
    tell = functools.partial(say, console)
    spec, first_action, warnings = _sequence_spec(config)
    session, topology = _plan(config, spec)
    topology = dataclasses.replace(topology, warnings=(*topology.warnings, *warnings))
    try:
        made = resume is None and not config.run_dir
        run_dir = new_folder(_default_run_dir(config, preset)) if made else resume or Path(config.run_dir)
        with owning(run_dir, tell, made):
            return _train(config, run_dir, resume is not None, console, spec, first_action, session, topology, signals)
    finally:
        if session is not None:
            session.close()


def _plan(config: TrainConfig, spec: SequenceSpec) -> tuple[RaySession | None, Topology]:
    """The plan, and the connection to the cluster it was made for, if one is to be joined."""
    if not config.cluster.address or config.serial:
        temporary = check_temporary_folder()
        if temporary.status == "problem" and not config.serial and os.environ.get("RAY_TMPDIR"):
            raise UserError(f"RAY_TMPDIR: {temporary.detail}. {temporary.advice}")
        return None, plan_topology(config, spec)
    from cluster.on_ray.environment import prepare_ray_environment

    prepare_ray_environment(private=False)
    from cluster.on_ray.session import cluster_nodes, join_cluster

    session = join_cluster(config)
    try:
        return session, plan_topology(config, spec, cluster_nodes())
    except BaseException:
        session.close()
        raise


def _train(
    config: TrainConfig,
    run_dir: Path,
    resumes: bool,
    console: Console,
    spec: SequenceSpec,
    first_action: int,
    session: RaySession | None,
    topology: Topology,
    signals: StopSignals,
) -> int:
    checkpoint, checkpoints = None, Checkpoints(run_dir, config.checkpoint.keep)
    tell = functools.partial(say, console)
    if resumes:
        refuse_other_agent(load_config(run_dir / CONFIG_FILE), config)
        checkpoints.mend()
        checkpoint = checkpoints.latest_or_error(tell)
    else:
        refuse_used(run_dir, checkpoints, tell)
    rows = plan_rows(config, spec, topology, run_dir)
    print_plan(rows, console)
    versions = {name: importlib.metadata.version(name) for name in VERSIONED} | {"python": platform.python_version()}

    fleet = _make_fleet(config, topology, session, run_dir)

    def keep_origin() -> None:
        """Write what the run is made from, once it is up: a start that fails leaves an earlier run as it was."""
        try:
            save_config(config, run_dir / CONFIG_FILE)
            write_whole(run_dir / VERSIONS_FILE, json.dumps(versions, indent=2) + "\n")
            looks = {"spec": dataclasses.asdict(spec.environment), "first_action": first_action}
            write_whole(run_dir / ENVIRONMENT_FILE, json.dumps(looks, indent=2) + "\n")
        except OSError as error:
            if not resumes:
                raise UserError(f"{run_dir} cannot be written ({error.strerror}): name another --run-dir.") from None
            tell(f"{run_dir / CONFIG_FILE} keeps the flags of before: it cannot be written ({error.strerror}).")

    try:
        supervisor = Supervisor(config, topology, fleet, run_dir, frames_per_step(config.env, config.environment))
        signals.watch(supervisor)
        supervisor.describe_run(
            {"run/plan": _table(rows), "run/config": _json_text(config), "run/versions": _table(list(versions.items()))}
        )
        why = supervisor.run(checkpoint, keep_origin)
    finally:
        fleet.close()
    print_plan(_summary(supervisor, why, run_dir), console, title="Summary")
    return 1 if supervisor.schedule.failure else 0


def _summary(supervisor: Supervisor, why: str, run_dir: Path) -> list[tuple[str, str]]:
    """What a run came to, where everything is and what can be done with it, as rows for the console."""
    telemetry, game = supervisor.telemetry, game_of(supervisor.config.env)
    minutes = telemetry.session_minutes
    score = "no evaluation yet"
    if telemetry.score is not None:
        count = telemetry.score.episodes
        score = f"{telemetry.score.text()} (newest evaluation, {count} episode{'s' * (count > 1)})"
        if game is not None:
            score += f", {human_normalised_score(game, telemetry.score.mean):.1%} of human"
    checkpoints = supervisor.checkpoints.all()
    module = module_of(supervisor.config.env)
    trust = f" --trust-modules {module}" if module and not module.startswith("actors.") else ""
    rows = [
        ("stopped", f"{why}, after {format_duration(60 * minutes)}"),
        ("trained", f"{supervisor.env_frames:,} environment frames, {supervisor.state.learner_updates:,} updates"),
        ("score", score),
        ("troubles", f"{supervisor.state.restarts} restarts, {telemetry.warnings} warnings"),
        ("checkpoint", (str(checkpoints[-1]) if checkpoints else "none") + _unsaved(supervisor)),
        ("curves", f"tensorboard --logdir {shlex.quote(str(run_dir.parent))}"),
    ]
    if not checkpoints:
        return [*rows, ("begin anew", "without a checkpoint, this run cannot go on or be played")]
    folder = shlex.quote(str(run_dir))
    return [
        *rows,
        ("go on", f"python launch.py train --resume {folder}{trust}"),
        ("evaluate", f"python launch.py eval {folder} --episodes 30{trust}"),
        ("watch", f"python launch.py eval {folder} --video {shlex.quote(str(run_dir / 'episode.mp4'))}{trust}"),
        ("report", f"python launch.py report {folder}"),
        ("export", f"python launch.py export {folder}{trust}"),
    ]


def _unsaved(supervisor: Supervisor) -> str:
    why = supervisor.schedule.failure
    return f"; what came after is lost, for the last one could not be written ({why})" if why else ""


def _make_fleet(config: TrainConfig, topology: Topology, session: RaySession | None, run_dir: Path) -> Fleet:
    if config.serial:
        from cluster.runtime.serial_fleet import SerialFleet

        return SerialFleet(config)
    from cluster.on_ray.environment import prepare_ray_environment

    prepare_ray_environment(private=session is None)
    from cluster.on_ray.fleet import RayFleet

    return RayFleet(config, topology, session, run_dir)


def _sequence_spec(config: TrainConfig) -> tuple[SequenceSpec, int, list[str]]:
    """(shapes of this run, its environment's first action, warnings about it), from a trial of it."""
    try:
        trial = try_environment(config.env, config.environment)
        with torch.device("meta"):
            make_networks(config.agent, trial.spec)
    except UnsupportedEnvironment as error:
        raise UserError(str(error)) from None
    except (ValueError, RuntimeError) as error:
        raise UserError(f"No network can be built for {config.env}: {error}") from None
    except Exception as error:  # noqa: BLE001 (whatever a torso or a novelty of the user's does)
        raise UserError(f"No network can be built for {config.env}: {in_words(error)}") from None
    warnings = []
    if trial.may_last:
        warnings.append(
            f"no step limit is known of {config.env}: without ends of episodes training has no returns, and evaluation "
            f"cuts them at {EVALUATION_STEPS:,} steps; --environment.max-episode-steps sets a limit"
        )
    spec = SequenceSpec.of(config.agent, trial.spec)
    return spec, trial.first_action, warnings


def _default_run_dir(config: TrainConfig, preset: str) -> Path:
    name = config.env.replace("/", "-").replace(":", "-")
    return Path("runs") / f"{name}-{preset}-seed{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"


def _json_text(config: TrainConfig) -> str:
    return "```json\n" + json.dumps(dataclasses.asdict(config), indent=2) + "\n```"


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {plain(value)} |" for name, value in rows)])
