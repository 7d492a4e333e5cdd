"""Disco maze: does episodic novelty see through walls that change colour at every step? (NGU section 4.1.)

    python -m results.disco_maze [--quick]

There is no reward, and a step into a wall ends the episode: what an agent visits is what novelty makes it visit. A
learned embedding keeps what actions control and should forget the colours; to a random one every state is new, and
so it is to the life-long novelty of RND alone. Trained and judged is the exploratory policy.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator

from cluster.commands.evaluation import make_evaluator
from cluster.commands.report.charts import COLOURS, draw_curves, save_panels
from cluster.commands.saved_agent import load_agent
from cluster.telemetry.metrics import MetricSeries
from results.command import run_as_command
from results.experiment import SMALL_NETWORKS, Experiment, Outcome, Run, Variant, length

SIZE = 11
"""Side of the maze. The paper's has 21, which takes four times as long an update, and many more of them."""
CORRIDOR_CELLS = 2 * ((SIZE - 1) // 2) ** 2 - 1
# Measured on pairs from random walks, 900 updates: squared distance between two images of one cell over that to
# the ten nearest cells, 0.011 with scaled inputs and 0.03 with normalised ones; 0.008 counts as the same state.
EMBEDDING = ("--network.embedding-inputs", "scaled", "--learner.embedding-learning-rate", "2e-3")
EPISODIC = ("--intrinsic.novelty", "episodic", *EMBEDDING)
LEARNED, RANDOM = "learned embedding", "random embedding"
VARIANTS = (
    Variant(LEARNED, EPISODIC),
    Variant(RANDOM, (*EPISODIC, "--intrinsic.embedding", "random")),
    Variant("RND alone", ("--intrinsic.novelty", "lifelong")),
)


def draw(outcome: Outcome, folder: Path) -> None:
    """curves.png: share of the maze visited, and revisits' reward; paths.png: an episode of each variant."""
    visited = {
        variant.name: [
            series._replace(values=series.values / CORRIDOR_CELLS)
            for series in outcome.series(variant.name, "evaluation/new_states")
        ]
        for variant in VARIANTS
    }
    ratios = {
        name: [
            ratio(revisits, new)
            for revisits, new in zip(
                outcome.series(name, "intrinsic/episodic_revisits"),
                outcome.series(name, "intrinsic/episodic_new"),
                strict=True,
            )
        ]
        for name in (LEARNED, RANDOM)
    }
    save_panels(
        folder / "curves.png",
        "Disco maze: means and 95 % intervals over seeds",
        [
            lambda axis: draw_curves(axis, visited, "share of corridor cells visited"),
            lambda axis: draw_curves(axis, ratios, "episodic reward, old cells / new cells"),
        ],
    )
    draw_paths(outcome, folder / "paths.png")


def ratio(numerator: MetricSeries, denominator: MetricSeries) -> MetricSeries:
    """numerator / denominator where both were logged and the denominator is not 0."""
    _, of_first, of_second = np.intersect1d(numerator.env_frames, denominator.env_frames, return_indices=True)
    usable = denominator.values[of_second] != 0
    of_first, of_second = of_first[usable], of_second[usable]
    quotients = numerator.values[of_first] / denominator.values[of_second]
    return MetricSeries(numerator.env_frames[of_first], numerator.minutes[of_first], quotients)


def draw_paths(outcome: Outcome, path: Path) -> None:
    """One greedy episode of the first run of each variant, all in the same maze."""
    first_runs = {run.variant.name: run for run in reversed(outcome.runs)}
    if len(first_runs) < len({variant for variant, _ in outcome.metrics}):
        # Earlier runs left no checkpoint to play with, and the picture that was drawn of them should stay.
        return
    runs = [first_runs[variant.name] for variant in VARIANTS if variant.name in first_runs]
    save_panels(path, "A greedy episode of each", [partial(draw_path, run=run) for run in runs])


def draw_path(axis: Axes, run: Run) -> None:
    """Walls grey, the path in colours by its time."""
    walls, cells = play_episode(run.folder)
    axis.imshow(walls, cmap="Greys", vmin=0, vmax=2.5)
    points = cells[:, ::-1].astype(np.float64)
    lines = LineCollection(list(np.stack([points[:-1], points[1:]], axis=1)), cmap="viridis", linewidths=2.5)
    lines.set_array(np.arange(len(points) - 1))
    axis.add_collection(lines)
    axis.plot(*points[0], "o", color=COLOURS[1], markersize=5)
    distinct = len({tuple(cell) for cell in cells if not walls[tuple(cell)]})
    axis.set(title=f"{run.variant.name}\n{distinct} cells in {len(cells) - 1} steps", xticks=[], yticks=[])
    axis.figure.colorbar(lines, ax=axis, shrink=0.7, label="step", ticks=MaxNLocator(5, integer=True))


def play_episode(run_dir: Path, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(walls bool [S, S], cells visited int [steps + 1, 2]) of one episode with the run's newest checkpoint."""
    agent = load_agent(run_dir, print)
    evaluator = make_evaluator(agent, seed, num_lanes=1)
    policy = agent.policy(None)
    images = []
    while True:
        step = evaluator.lanes.step(lambda _: policy)
        images.append(np.moveaxis(step.observations[0], 0, -1))
        if step.ends[0]:
            break
    return walls_of(images[0]), np.array([agent_cell(image) for image in images])


def agent_cell(image: np.ndarray) -> tuple[int, int]:
    """(row, column) of the agent, the only green pixel of an image [S, S, 3]."""
    ((row, column),) = np.argwhere((image == (0, 255, 0)).all(-1))
    return int(row), int(column)


def walls_of(image: np.ndarray) -> np.ndarray:
    """Where an episode's first image [S, S, 3] shows walls: neither the black corridor nor the agent upon it."""
    walls = np.asarray(image.any(-1))
    walls[agent_cell(image)] = False
    return walls


EXPERIMENT = Experiment(
    name="disco_maze",
    title="Disco maze: a learned embedding, a random one, RND alone",
    env="Agent57/DiscoMaze-v0",
    variants=VARIANTS,
    base_flags=(
        *length(300_000, 15),
        *("--family.num-policies", "2", "--family.beta-max", "1", "--bandit.assignment", "most_exploratory"),
        *("--evaluation.policy-index", "1", "--evaluation.episodes", "32", "--environment.arguments", f"size={SIZE}"),
        # An MLP sees the walls' colours wherever it sees the agent: its noise never leaves the embedding.
        *("--network.torso", "small_conv", "--network.conv-filters", "16", "16", "16"),
        *("--learner.torso-dtype", "auto", "--actor.torso-dtype", "auto"),
        # Episodes begin with two or three steps until a wall: an unpadded memory would never pay.
        *("--intrinsic.young-memory", "padded"),
        *(*SMALL_NETWORKS, "--replay.replay-ratio", "2", "--replay.min-sequences", "200"),
        # A random step hits a wall, mostly; one in a hundred would end most episodes before the maze is seen.
        *("--evaluation.epsilon", "0"),
    ),
    quick_flags=length(30_000, 4),
    curve_tags=(
        *("evaluation/new_states", "return/new_states", "learner/embedding_accuracy"),
        *("intrinsic/episodic_new", "intrinsic/episodic_revisits"),
    ),
    draw=draw,
    final_tag="evaluation/new_states",
    keep_checkpoints=True,
)

if __name__ == "__main__":
    run_as_command(EXPERIMENT)
