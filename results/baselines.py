"""The agents of `examples/` on the tasks that they are for.

    python -m results.baselines [--quick]

Thresholds are those of `tests/examples`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from matplotlib.axes import Axes

from cluster.commands.report.charts import COLOURS, Panel, draw_curves, save_panels
from results.command import run_as_command
from results.experiment import Experiment, Outcome, Variant

CARTPOLE, DDPG = "examples/reinforce_cartpole.py", "examples/ddpg_pendulum.py"
GAUSSIAN = "examples/gaussian_policy_gradient.py"
PENDULUM = ("--env", "Pendulum-v1", "--hidden", "32", "32", "--learning-rate", "3e-3", "--updates", "300")
FAST, NO_BASELINE = ("--learning-rate", "2"), ("--baseline", "none")
WINDOW = 100
"""Episodes of a moving mean."""
EPISODES, UPDATES = ("--episodes", "50"), ("--updates", "5")
SLOW = {"softmax": ("--policy", "softmax"), "sigmoid": ("--policy", "sigmoid")}
ON_CARTPOLE = {
    **SLOW,
    **{f"{name}, no baseline": (*flags, *NO_BASELINE) for name, flags in SLOW.items()},
    "fast": (*SLOW["softmax"], *FAST),
    "fast, no baseline": (*SLOW["softmax"], *FAST, *NO_BASELINE),
}
VARIANTS = (
    Variant("one-shot", script=GAUSSIAN, quick_flags=UPDATES),
    Variant("ddpg", script=DDPG, quick_flags=("--steps", "1500")),
    *(Variant(name, flags, CARTPOLE, EPISODES) for name, flags in ON_CARTPOLE.items()),
    Variant("gaussian-pendulum", PENDULUM, GAUSSIAN, UPDATES),
)


def draw_seeds(axis: Axes, outcome: Outcome, names: list[str]) -> None:
    """A line per seed, because each ends when it has solved its task."""
    for colour, name in zip(COLOURS, names, strict=False):
        style = "--" if "no baseline" in name else "-"
        for number, run in enumerate(outcome.series(name, "train/return")):
            recent = [(run.env_frames > last - WINDOW) & (run.env_frames <= last) for last in run.env_frames]
            means = [run.values[mask].mean() for mask in recent]
            axis.plot(run.env_frames, means, style, color=colour, label="" if number else name)
    axis.set(xlabel="episodes", ylabel=f"training return, mean of {WINDOW} episodes")
    if axis.lines:
        axis.legend(loc="lower right")


def draw(outcome: Outcome, folder: Path) -> None:
    """cartpole.png and continuous.png."""

    def one_shot(axis: Axes) -> None:
        axis.axhspan(3.75, 4.25, color="grey", alpha=0.35, linewidth=0, label="full reward")
        curves = {name: outcome.series("one-shot", f"policy/{name}") for name in ("mean", "std")}
        draw_curves(axis, curves, "action", "updates of 16 actions")

    def on_pendulum(name: str, xlabel: str) -> Panel:
        return outcome.panel("eval/return", "greedy return, Pendulum-v1", xlabel, [name])

    save_panels(
        folder / "cartpole.png",
        "REINFORCE on CartPole-v1, a line per seed; learning rate 0.5 (left) and 2 (right, softmax)",
        [partial(draw_seeds, outcome=outcome, names=names) for names in (list(ON_CARTPOLE)[:4], list(ON_CARTPOLE)[4:])],
    )
    save_panels(
        folder / "continuous.png",
        "Continuous actions: one-shot game (left), DDPG (middle) and REINFORCE (right) on Pendulum-v1",
        [
            one_shot,
            on_pendulum("ddpg", "environment steps"),
            on_pendulum("gaussian-pendulum", "updates of 3 200 environment steps"),
        ],
        width=15.0,
    )


EXPERIMENT = Experiment(
    name="baselines",
    title="The agents of examples/, each on its task",
    variants=VARIANTS,
    curve_tags=("train/return", "eval/return", "policy/mean", "policy/std"),
    draw=draw,
    final_tag="eval/return",
    first_seed=1,
    code=("examples",),
)

if __name__ == "__main__":
    run_as_command(EXPERIMENT)
