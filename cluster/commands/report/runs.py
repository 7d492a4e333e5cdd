"""Run folders as the report sees them: their metrics, and which of them differ in nothing but the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.environments.atari.scores import game_of, human_normalised_score
from agent57.family import PolicyFamily
from cluster.commands.report.statistics import final_value
from cluster.commands.saved_agent import versions_of
from cluster.run.config import TrainConfig, flat_fields, load_config
from cluster.run.errors import UserError
from cluster.telemetry.metrics import METRICS_FILE, MetricSeries, read_metrics
from cluster.telemetry.score import EPISODES_TAG, SCORE_TAG

NOT_SETTINGS = ("seed", "env", "run_dir", "max_minutes", "max_env_frames", "log_seconds", "serial")
"""Two runs that differ in these alone are two runs of the same thing."""
NOT_SETTINGS_GROUPS = ("checkpoint.",)


OLD_MARK = " *"
"""After scores by an earlier version's rule, which judged a policy by the episodes that had chosen it: they flatter."""


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path
    config: TrainConfig
    metrics: dict[str, MetricSeries]
    versions: dict[str, str]

    @property
    def game(self) -> str | None:
        """ROM name, if it is one of the 57 games."""
        return game_of(self.config.env)

    @property
    def settings(self) -> dict[str, Any]:
        """What makes this run different from others, seeds and lengths apart."""
        return {
            name: value
            for name, value in flat_fields(self.config).items()
            if name not in NOT_SETTINGS and not name.startswith(NOT_SETTINGS_GROUPS)
        }

    @property
    def score(self) -> float:
        """Mean of the last fifth of the rounds' scores (`cluster/telemetry/score.py`); NaN if there were none."""
        return final_value(self.metrics[SCORE_TAG]) if SCORE_TAG in self.metrics else float("nan")

    @property
    def mark(self) -> str:
        """`OLD_MARK` if the scores are an earlier version's, else nothing."""
        return OLD_MARK if SCORE_TAG in self.metrics and EPISODES_TAG not in self.metrics else ""

    @property
    def human_normalised(self) -> float:
        """`score` on the human scale; NaN outside the 57 games."""
        return float("nan") if self.game is None else human_normalised_score(self.game, self.score)

    def last(self, tag: str) -> float:
        """The newest value of a metric; NaN without any."""
        return float(self.metrics[tag].values[-1]) if tag in self.metrics else float("nan")

    def mean(self, tag: str) -> float:
        """Mean of a metric over its later half, when a run has settled; NaN without any."""
        if tag not in self.metrics:
            return float("nan")
        values = self.metrics[tag].values
        values = values[len(values) // 2 :]
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    def arms(self) -> dict[str, MetricSeries]:
        """Share of pulls of each policy over time, labelled by beta and gamma."""
        family = PolicyFamily.of(self.config.family)
        return {
            f"{arm}: {family.betas[arm]:.3f}, {family.discounts[arm]:.4f}": self.metrics[tag]
            for arm in range(family.num_policies)
            if (tag := f"bandit_share/{arm:02d}") in self.metrics
        }


@dataclass(frozen=True)
class Group:
    """Runs of one environment with the same settings; ``setting`` numbers those over all environments."""

    env: str
    setting: int
    label: str
    runs: list[Run]

    def series(self, tag: str) -> list[MetricSeries]:
        return [run.metrics[tag] for run in self.runs if tag in run.metrics]

    @property
    def mark(self) -> str:
        return max((run.mark for run in self.runs), key=len)

    @property
    def scores(self) -> np.ndarray:
        """Final scores of the runs that have one."""
        scores = np.array([run.score for run in self.runs])
        return scores[np.isfinite(scores)]


def load_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs in ``paths``: run folders, or folders that hold some, such as a suite's.

    UserError for a path that is neither, or a run that has logged nothing.
    """
    folders: list[Path] = []
    for path in paths:
        found = [path] if (path / "config.json").is_file() else sorted(p.parent for p in path.glob("*/config.json"))
        if not found:
            raise UserError(
                f"{path} is not the folder of a run, nor does it hold any: name folders with a config.json."
            )
        folders += [folder for folder in found if folder not in folders]
    runs = [_load(folder) for folder in folders]
    filled = [run for run in runs if run.metrics]
    if not filled:
        raise UserError(f"{', '.join(map(str, folders))}: nothing was logged yet, so there is nothing to report.")
    return filled


def _load(folder: Path) -> Run:
    config = load_config(folder / "config.json")
    metrics = read_metrics(folder) if (folder / METRICS_FILE).is_file() else {}
    return Run(folder, config, metrics, versions_of(folder))


def group(runs: Sequence[Run]) -> tuple[list[Group], list[dict[str, Any]]]:
    """(runs by environment and settings; the settings in which they differ, a dict per setting)."""
    settings: list[dict[str, Any]] = []
    members: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        if run.settings not in settings:
            settings.append(run.settings)
        members.setdefault((run.config.env, settings.index(run.settings)), []).append(run)
    names = [name for name in settings[0] if any(other[name] != settings[0][name] for other in settings)]
    differing = [{name: one[name] for name in names} for one in settings]
    labels = [_label(number, one) for number, one in enumerate(differing)]
    groups = [Group(env, number, labels[number], of_it) for (env, number), of_it in members.items()]
    return sorted(groups, key=lambda one: (one.env, one.setting)), differing


def _label(number: int, differing: dict[str, Any]) -> str:
    """A short name of a setting: what is special about it if that is little, else a letter that a table explains."""
    text = ", ".join(f"{name.split('.')[-1].replace('_', '-')} {value}" for name, value in differing.items())
    if not differing:
        return "agent"
    return text if len(text) <= 48 else f"setting {chr(ord('A') + number % 26)}{number // 26 or ''}"
