"""Random coin: two networks, one, and MEME's shared one, over the weight of intrinsic rewards (Agent57 figure 5).

    python -m results.random_coin [--quick]

The coin is somewhere else in every episode, so an agent paid for novelty visits everything. Judged is policy 0, which
has beta = 0: how well does it go straight to the coin, although other policies filled the replay? The paper's claim:
with one network for r^e + beta r^i it suffers as beta grows, with separate networks it does not.
"""

from __future__ import annotations

from pathlib import Path

from cluster.commands.report.charts import Panel, draw_sweep, save_panels
from results.command import run_as_command
from results.experiment import SMALL_NETWORKS, Experiment, Outcome, Variant, length

SIZE = 9
"""Side of the room. The paper's has 15, which takes several times as many updates; sixty runs would take a day."""
BETAS = (0.0, 0.1, 0.3, 1.0, 3.0)
SHOWN_BETA = 1.0
NETWORKS = {
    "separate": (),
    "single": ("--network.kind", "single"),
    "shared": ("--network.kind", "shared", "--loss.td-scale", "policy"),
}
CHOICES = {"bandit": (), "uniform arms": ("--bandit.epsilon", "1.0")}
CELLS = [
    (network, choice) for choice in CHOICES for network in NETWORKS if (network, choice) != ("shared", "uniform arms")
]
"""What is compared at every beta_max. MEME's shared network is no part of the paper's figure: once is enough."""


def name(network: str, choice: str, beta: float) -> str:
    return f"{network}, {choice}, beta_max {beta:g}"


def draw(outcome: Outcome, folder: Path) -> None:
    """final_return.png: policy 0's return against beta_max, and learning curves at one beta_max."""
    lines = {
        f"{network}, {choice}": [outcome.final_values(name(network, choice, beta)) for beta in BETAS]
        for network, choice in CELLS
    }
    shown = [name(network, "bandit", SHOWN_BETA) for network in NETWORKS]
    panels: list[Panel] = [
        lambda axis: draw_sweep(axis, BETAS, lines, "beta_max", "final greedy return"),
        outcome.panel("evaluation/return", "greedy return", names=shown),
    ]
    title = f"Random coin, {SIZE} x {SIZE}: greedy return of policy 0 (beta = 0); means and 95 % intervals over seeds"
    save_panels(folder / "final_return.png", title, panels)


EXPERIMENT = Experiment(
    name="random_coin",
    title="Random coin: separate networks against one and a shared one, over beta_max",
    env="Agent57/RandomCoin-v0",
    variants=tuple(
        Variant(name(network, choice, beta), ("--family.beta-max", str(beta), *NETWORKS[network], *CHOICES[choice]))
        for beta in BETAS
        for network, choice in CELLS
    ),
    base_flags=(
        *length(300_000, 12),
        *("--evaluation.policy-index", "0", "--evaluation.episodes", "64", "--environment.arguments", f"size={SIZE}"),
        # Discounts match the few steps that a coin is away: near 1, the action gap would drown in noise.
        *("--family.num-policies", "4", "--family.gamma-max", "0.95", "--family.gamma-min", "0.9"),
        *(*SMALL_NETWORKS, "--replay.replay-ratio", "4"),
    ),
    quick_flags=length(40_000, 4),
    curve_tags=("evaluation/return", "return/all"),
    draw=draw,
)

if __name__ == "__main__":
    run_as_command(EXPERIMENT)
