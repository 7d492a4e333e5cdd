"""``launch.py export``: a run's policy as safetensors and JSON, for use without the rest of the run."""

from __future__ import annotations

import functools
from pathlib import Path

from rich.console import Console

from actors.exported_policy import CONFIG_FILE, WEIGHTS_FILE, save_policy
from cluster.commands.output_files import refuse_unwritable_folder
from cluster.commands.saved_agent import load_agent, versions_of
from cluster.run.command_line import CommandParser, add_trust
from cluster.run.errors import UserError
from cluster.telemetry.console import print_plan, say


def run(arguments: list[str]) -> int:
    """``launch.py export``; returns the exit code."""
    parser = CommandParser("launch.py export", description="Write a run's policy as safetensors and JSON.")
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    parser.add_argument("--output", type=Path, default=None, help="folder to write (default: RUN_DIR/policy)")
    parser.add_argument(
        "--policy-index", type=int, default=None, help="member of the family to export (default: the greedy arm)"
    )
    add_trust(parser)
    options = parser.parse_args(arguments)
    if options.output is not None:
        refuse_unwritable_folder(options.output, "--output")
    console = Console()
    agent = load_agent(options.run_dir, functools.partial(say, console), options.trust_modules, plays=False)
    arm = agent.policy(options.policy_index)
    folder: Path = options.output or options.run_dir / "policy"
    config = agent.config
    try:
        save_policy(
            folder,
            config.env,
            config.environment,
            agent.spec,
            agent.first_action,
            config.agent,
            agent.networks,
            arm,
            config.evaluation.epsilon,
            agent.running_state,
            {
                "env_frames": agent.env_frames,
                "learner_updates": agent.updates,
                "seed": config.seed,
                "versions": versions_of(options.run_dir),
            },
        )
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): name another --output.") from None
    size = sum((folder / name).stat().st_size for name in (WEIGHTS_FILE, CONFIG_FILE))
    rows = [
        ("environment", config.env),
        ("checkpoint", f"{agent.checkpoint}: {agent.env_frames:,} frames, {agent.updates:,} updates"),
        ("policy", f"{arm} of {config.family.num_policies}{' (the greedy arm)' if arm == agent.greedy_arm else ''}"),
        ("written", f"{folder / WEIGHTS_FILE} and {CONFIG_FILE}, {size / 1e6:.1f} MB"),
        ("use", f'policy = agent57.load_policy("{folder}"); policy.act(observation, reward)'),
    ]
    print_plan(rows, console, title="Export")
    return 0
