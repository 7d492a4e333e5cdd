"""``launch.py eval``: greedy episodes with a run's newest checkpoint, as a table, JSON, CSV and video.

The same evaluator as in training (`actors/evaluator.py`), so the same preprocessing, epsilon, no-ops and time limit.
"""

from __future__ import annotations

import csv
import functools
import io
import json
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from actors.environments.atari.scores import capped_human_normalised_score, game_of, human_normalised_score
from actors.environments.contract import atari_rom
from actors.environments.door import EnvironmentFault
from actors.evaluator import EVALUATION_STEPS, Evaluator
from actors.lanes import LaneStep
from actors.rollout import Episode
from agent57.family import PolicyFamily
from agent57.networks import flatten_weights
from cluster.commands.output_files import refuse_unwritable_file
from cluster.commands.saved_agent import SavedAgent, load_agent
from cluster.run.checkpoint import restoring
from cluster.run.command_line import CommandParser, add_trust, whole
from cluster.run.errors import UserError
from cluster.telemetry.console import print_plan, say
from cluster.telemetry.score import Score
from replay.whole_files import write_whole

EMULATOR_HERTZ = 60
DEFAULT_EPISODES = 30
PLAIN_FRAMES_PER_SECOND = 10.0


def run(arguments: list[str]) -> int:
    """``launch.py eval``; returns the exit code."""
    options = _parse(arguments)
    console = Console()
    agent = load_agent(options.run_dir, functools.partial(say, console), options.trust_modules)
    arm = agent.policy(options.policy_index)
    try:
        episodes = _episodes(agent, arm, options)
    except EnvironmentFault as fault:
        raise UserError(f"{fault}.") from fault
    summary = summarise(agent, arm, episodes, options.seed)
    _print(console, agent, summary, options)
    if options.json:
        write_whole(options.json, json.dumps(summary, indent=2) + "\n")
    if options.csv:
        _write_csv(options.csv, episodes)
    return 0


def _episodes(agent: SavedAgent, arm: int, options: Namespace) -> list[Episode]:
    episodes: list[Episode] = []
    if options.video:
        episodes += record(agent, arm, options.seed, options.video)
    wanted = options.episodes if options.episodes is not None else (1 if options.video else DEFAULT_EPISODES)
    left = wanted - len(episodes)
    if left > 0:
        # Another seed than the filmed episode's.
        evaluator = make_evaluator(agent, options.seed + len(episodes), min(options.lanes, left))
        episodes += play(evaluator, arm, left)
    return episodes


def _parse(arguments: list[str]) -> Namespace:
    parser = CommandParser("launch.py eval", description="Play greedy episodes with a run's newest checkpoint.")
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    parser.add_argument(
        "--episodes",
        type=whole(1, 10**6),
        default=None,
        help=f"episodes to play (default {DEFAULT_EPISODES}; 1 with --video)",
    )
    parser.add_argument(
        "--policy-index", type=int, default=None, help="member of the family to play (default: the greedy arm)"
    )
    parser.add_argument("--video", type=Path, default=None, help="film the first episode into this .mp4")
    parser.add_argument("--json", type=Path, default=None, help="write scores and settings into this file")
    parser.add_argument("--csv", type=Path, default=None, help="write a row per episode into this file")
    parser.add_argument("--lanes", type=whole(1, 1024), default=10, help="episodes played side by side (default 10)")
    parser.add_argument(
        "--seed", type=whole(0, 2**63 - 1), default=12345, help="seed of the environments (default 12345)"
    )
    add_trust(parser)
    options = parser.parse_args(arguments)
    if options.video is not None and options.video.suffix != ".mp4":
        name = options.video.with_suffix(".mp4") if options.video.name else "episode.mp4"
        raise UserError(f"--video writes MP4: call it {name}.")
    given = {flag: path for flag in ("video", "json", "csv") if (path := getattr(options, flag)) is not None}
    for flag, path in given.items():
        refuse_unwritable_file(path, f"--{flag}")
    if len({path.resolve() for path in given.values()}) < len(given):
        raise UserError(f"{' and '.join(f'--{flag}' for flag in given)} need a file each.")
    return options


def make_evaluator(agent: SavedAgent, seed: int, num_lanes: int, render: bool = False) -> Evaluator:
    """An evaluator with the checkpoint's networks; its novelty goes on from training's moments."""
    config = agent.config
    evaluator = Evaluator(
        config.env,
        config.agent,
        config.evaluation,
        config.environment,
        seed,
        config.actor.torso_dtype,
        num_lanes=num_lanes,
        render=render,
    )
    with restoring(agent.checkpoint):
        evaluator.set_moments(agent.running_state)
    evaluator.set_weights(agent.updates, flatten_weights(agent.networks))
    return evaluator


def play(evaluator: Evaluator, arm: int, episodes: int) -> list[Episode]:
    """``episodes`` episodes of policy ``arm``, played in rounds of all lanes.

    Every episode of a round counts: taking the first to finish would favour short ones.
    """
    played: list[Episode] = []
    while len(played) < episodes:
        evaluator.begin_with([arm] * evaluator.num_lanes)
        finished: dict[int, Episode] = {}
        while evaluator.playing:
            finished |= {episode.lane: episode for episode in evaluator.play(1000)}
        played += [finished[lane] for lane in sorted(finished)]
    return played[:episodes]


def record(agent: SavedAgent, arm: int, seed: int, path: Path) -> list[Episode]:
    """Play one episode of policy ``arm`` and film it: a frame per observation, the first and the last included."""
    from cluster.commands.video import EpisodePanel, VideoFile

    evaluator = make_evaluator(agent, seed, num_lanes=1, render=True)
    environments = evaluator.lanes.environments
    panel = EpisodePanel(agent.config.env, agent.config.agent, environments.action_names)
    video = VideoFile(path, _frames_per_second(agent))

    def film(step: LaneStep, pictures: list[np.ndarray]) -> None:
        video.add(panel.draw(step, pictures[0]))

    evaluator.begin_with([arm])
    episodes: list[Episode] = []
    try:
        while evaluator.playing:
            episodes += evaluator.play(1000, film)
        video.close()
    except BaseException:
        video.discard()
        raise
    return episodes


def _frames_per_second(agent: SavedAgent) -> float:
    """Real time on Atari, a pace that can be followed elsewhere."""
    if atari_rom(agent.config.env) is None:
        return PLAIN_FRAMES_PER_SECOND
    return EMULATOR_HERTZ / agent.config.environment.frame_skip


def summarise(agent: SavedAgent, arm: int, episodes: list[Episode], seed: int) -> dict[str, Any]:
    """Undiscounted, unclipped returns of ``episodes``, all played with policy ``arm``, and how they were played."""
    config = agent.config
    family = PolicyFamily.of(config.family)
    score = Score([episode.extrinsic_return for episode in episodes])
    game = game_of(config.env)
    return {
        "episodes": score.episodes,
        "mean": score.mean,
        "standard_error": score.standard_error if score.episodes > 1 else None,
        "median": float(np.median(score.returns)),
        "min": min(score.returns),
        "max": max(score.returns),
        "env": config.env,
        "checkpoint": str(agent.checkpoint),
        "env_frames": agent.env_frames,
        "learner_updates": agent.updates,
        "policy_index": arm,
        "num_policies": config.family.num_policies,
        "beta": float(family.betas[arm]),
        "gamma": float(family.discounts[arm]),
        "epsilon": config.evaluation.epsilon,
        "seed": seed,
        "returns": score.returns,
        "lengths": [episode.length for episode in episodes],
        "cut_episodes": sum(episode.cut for episode in episodes),
        "human_normalised": None if game is None else human_normalised_score(game, score.mean),
        "human_normalised_capped": None if game is None else capped_human_normalised_score(game, score.mean),
    }


def _print(console: Console, agent: SavedAgent, summary: dict[str, Any], options: Namespace) -> None:
    arm, score = summary["policy_index"], Score(summary["returns"])
    greedy = " (the greedy arm)" if arm == agent.greedy_arm else ""
    rows = [
        ("environment", summary["env"]),
        ("checkpoint", f"{agent.checkpoint}: {agent.env_frames:,} frames, {agent.updates:,} updates"),
        ("policy", f"{arm} of {summary['num_policies']}{greedy}, chosen before these episodes"),
        ("", f"beta {summary['beta']:.4g}, gamma {summary['gamma']:.5g}, epsilon {summary['epsilon']:g}"),
        ("episodes", f"{score.episodes}, mean length {np.mean(summary['lengths']):,.0f} steps"),
        ("mean return", score.text(",.2f") + (" (standard error)" if score.episodes > 1 else "")),
        ("median", f"{summary['median']:,.2f}"),
        ("range", f"{summary['min']:,g} to {summary['max']:,g}"),
    ]
    if summary["cut_episodes"]:
        text = f"{summary['cut_episodes']} after {EVALUATION_STEPS:,} steps: no limit is registered"
        rows.append(("cut", f"{text}, environment.max-episode-steps sets one in training"))
    if summary["human_normalised"] is not None:
        text = f"{100 * summary['human_normalised']:.1f} % (0 % random, 100 % human; table of Badia et al. 2020)"
        rows.append(("human-normalised", text))
        rows.append(("capped", f"{100 * summary['human_normalised_capped']:.1f} %"))
    rows += [(flag, str(path)) for flag in ("video", "json", "csv") if (path := getattr(options, flag))]
    print_plan(rows, console, title="Evaluation")


def _write_csv(path: Path, episodes: Iterable[Episode]) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["episode", "policy_index", "epsilon", "return", "intrinsic_return", "length"])
    for number, episode in enumerate(episodes):
        policy, epsilon = episode.policy_index, episode.epsilon
        returns = [f"{episode.extrinsic_return:g}", f"{episode.intrinsic_return:.6g}"]
        writer.writerow([number, policy, epsilon, *returns, episode.length])
    write_whole(path, text.getvalue())
