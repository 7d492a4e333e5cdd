"""The report's one page: what was run, how well it did, what it explored, how fast. HTML that needs no other file."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from actors.environments.atari.scores import RANDOM_AND_HUMAN_SCORES
from cluster.commands.report.aggregate import STATISTICS, estimate
from cluster.commands.report.charts import MINUTES, draw_curves, draw_intervals, draw_shares, number_charts, svg
from cluster.commands.report.runs import OLD_MARK, Group, Run
from cluster.commands.report.statistics import Estimate, estimate_mean
from cluster.run.errors import counted
from cluster.telemetry.console import format_count
from cluster.telemetry.metrics import reached
from cluster.telemetry.score import SCORE_TAG

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1060px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { margin-top: 2.4rem; border-bottom: 1px solid #ddd; }
h3 { margin: 1.6rem 0 .3rem; } p.note { color: #666; margin: .2rem 0 .8rem; max-width: 48rem; }
table { border-collapse: collapse; margin: .6rem 0; font-size: 13.5px; } th { text-align: left; font-weight: 600; }
th, td { padding: .22rem .7rem .22rem 0; border-bottom: 1px solid #eee; } td.n, th.n { text-align: right; }
.charts { display: flex; flex-wrap: wrap; gap: 1.2rem 2rem; } figure { margin: 0; }
figcaption { font-weight: 600; font-size: 14px; } svg { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
"""


def page(runs: Sequence[Run], groups: Sequence[Group], settings: Sequence[dict[str, Any]]) -> str:
    """The whole page as HTML text."""
    envs = list(dict.fromkeys(one.env for one in groups))
    sections = [
        f"<h1>Agent57: {counted(len(runs), 'run')}</h1>",
        f'<p class="note">{counted(len(envs), "environment")}, {counted(len(settings), "setting")}. The score of '
        "an evaluation is the mean return (undiscounted, unclipped) of greedy episodes of a policy that was chosen "
        "before them; a run's score is the mean of the last fifth of its evaluations. Training returns are no part of "
        "it. Bands and bars are 95 % bootstrap intervals over runs; faint lines are single runs.</p>",
        _old_scores(runs),
        _aggregate(groups),
        _final_scores(groups),
        _settings(groups, settings),
        *(_environment(env, [one for one in groups if one.env == env]) for env in envs),
        _throughput(groups),
        _runs(runs),
    ]
    body = number_charts("\n".join(section for section in sections if section))
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Agent57 report</title>'
    return f"<!DOCTYPE html>\n<html lang=en><head>{head}<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"


def _settings(groups: Sequence[Group], settings: Sequence[dict[str, Any]]) -> str:
    if len(settings) < 2:
        return ""
    labels = {one.setting: one.label for one in groups}
    names = list(settings[0])
    rows = [[name, *(str(one[name]) for one in settings)] for name in names]
    table = _table(["", *(labels[number] for number in range(len(settings)))], rows)
    shown = "open" if len(rows) <= 8 else ""
    summary = f"<summary>{counted(len(rows), 'field')}</summary>"
    return f"<h2>Settings that differ</h2><details {shown}>{summary}{table}</details>"


# Scores


def _aggregate(groups: Sequence[Group]) -> str:
    """Human-normalised scores over games; nothing without Atari games."""
    by_setting: dict[str, list[np.ndarray]] = {}
    for one in groups:
        scores = np.array([run.human_normalised for run in one.runs])
        scores = scores[np.isfinite(scores)]
        if len(scores):
            by_setting.setdefault(one.label, []).append(scores)
    if not by_setting:
        return ""
    rows, intervals = [], {}
    for label, games in by_setting.items():
        found = {name: estimate(games, statistic) for name, statistic in STATISTICS.items()}
        intervals[label] = found["IQM"]
        above = sum(scores.mean() >= 1 for scores in games)
        cells = [label, str(len(games)), str(sum(map(len, games))), *(_estimate(one) for one in found.values())]
        rows.append([*cells, f"{above} of {len(games)}"])
    header = ["setting", "games", "runs", *STATISTICS, "games at human level"]
    return (
        "<h2>Human-normalised scores over games</h2>"
        '<p class="note">0 is random play, 1 the human tester, by the table of Badia et al. 2020. IQM: mean of the '
        "middle half of all runs of all games (Agarwal et al. 2021); intervals draw seeds anew within each game. With "
        "one run per game there is nothing to draw from, and no interval.</p>"
        + _table(header, rows)
        + _intervals(intervals, "interquartile mean of human-normalised scores; small dots: games")
    )


def _intervals(rows: Mapping[str, Estimate], xlabel: str) -> str:
    return svg(lambda axis: draw_intervals(axis, rows, xlabel), 4.8, 0.5 + 0.25 * len(rows))


def _old_scores(runs: Sequence[Run]) -> str:
    if not any(run.mark for run in runs):
        return ""
    return (
        f'<p class="note">{OLD_MARK.strip()} Runs of an earlier version, which judged a policy by the same episodes '
        "that had chosen it: such a score flatters, most of all in a run's first rounds.</p>"
    )


def _estimate(one: Estimate) -> str:
    return f"{one.value:.3f}" + (f" ({one.low:.3f} to {one.high:.3f})" if one.high > one.low else "")


def _final_scores(groups: Sequence[Group]) -> str:
    rows, intervals = [], {}
    several = len({one.env for one in groups}) > 1
    for one in groups:
        scores = one.scores
        normalised = [run.human_normalised for run in one.runs if math.isfinite(run.human_normalised)]
        cells = [one.env, one.label, str(len(one.runs))]
        if len(scores):
            mean = intervals[one.label] = estimate_mean(scores)
            spread = f" ({mean.low:,.4g} to {mean.high:,.4g})" if len(scores) > 1 else ""
            cells.append(f"{mean.value:,.4g}{spread}{one.mark}")
        else:
            cells.append("no evaluation yet")
        rows.append([*cells, f"{np.mean(normalised):.1%}" if normalised else ""])
    header = ["environment", "setting", "runs", "score", "human-normalised"]
    # Returns of different games share no axis.
    chart = _intervals(intervals, "score") if intervals and not several else ""
    return "<h2>Final scores</h2>" + _table(header, rows) + chart


# Curves


def _environment(env: str, groups: Sequence[Group]) -> str:
    game = groups[0].runs[0].game
    references = []
    if game is not None:
        random, human = RANDOM_AND_HUMAN_SCORES[game]
        references = [(random, "random"), (human, "human")]
    charts = [
        _figure("Greedy return (the score)", _curves(groups, SCORE_TAG, "return", references=references)),
        _figure(
            "Greedy return against time", _curves(groups, SCORE_TAG, "return", references=references, xlabel=MINUTES)
        ),
        _figure("Training return, all policies and epsilons", _curves(groups, "return/all", "return")),
        _figure("Intrinsic reward per step", _curves(groups, "intrinsic/reward", "r^i")),
    ]
    arms = [_figure(f"Policies played: {one.label}", _arm_usage(one)) for one in groups]
    return f'<h2>{html.escape(env)}</h2><div class="charts">{"".join(charts)}</div>' + (
        '<p class="note">Shares of the bandit\'s pulls; a policy is named by its index, beta and gamma, from '
        f'exploitative (dark) to exploratory (bright).</p><div class="charts">{"".join(arms)}</div>'
        if any(arms)
        else ""
    )


def _curves(groups: Sequence[Group], tag: str, ylabel: str, **options: Any) -> str:
    curves = {}
    for one in groups:
        series = one.series(tag)
        curves[one.label + (f" ({len(series)} runs)" if len(series) > 1 else "")] = series
    return svg(lambda axis: draw_curves(axis, curves, ylabel, **options))


def _arm_usage(one: Group) -> str:
    per_run = [arms for run in one.runs if len(arms := run.arms()) > 1]
    labels = per_run[0] if per_run else {}
    shares = {label: [arms[label] for arms in per_run if label in arms] for label in labels}
    return svg(lambda axis: draw_shares(axis, shares, "share of pulls"))


# Speed and bookkeeping


def _throughput(groups: Sequence[Group]) -> str:
    rows = []
    for one in groups:
        cells = [one.env, one.label]
        for tag, form in (
            ("rate/env_frames_per_second", ",.0f"),
            ("rate/updates_per_second", ",.1f"),
            ("replay/ratio", ".2f"),
            ("learner/update_seconds", ".4f"),
            ("learner/fetch_seconds", ".4f"),
            ("actor/policy_lag_updates", ",.0f"),
        ):
            values = [value for run in one.runs if math.isfinite(value := run.mean(tag))]
            cells.append(format(float(np.mean(values)), form) if values else "")
        rows.append(cells)
    header = ["environment", "setting", "frames / s", "updates / s", "replay ratio", "s / update", "s waiting", "lag"]
    curves = {f"{one.env.split('/')[-1]}: {one.label}": one.series("rate/env_frames_per_second") for one in groups}
    chart = svg(lambda axis: draw_curves(axis, curves, "frames / s", MINUTES), 6.7) if len(curves) <= 12 else ""
    return (
        "<h2>Throughput</h2>"
        '<p class="note">Means over the later half of each run. The learner waits for batches, per update; the policy '
        "lag is in updates.</p>"
        + _table(header, rows)
        + f'<div class="charts">{_figure("Environment frames per second", chart)}</div>'
    )


def _runs(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        frames, minutes = reached(run.metrics)
        broken = [run.last("health/restarts"), run.last("health/lost_sequences"), run.last("learner/bad_updates")]
        rows.append(
            [
                str(run.folder),
                run.config.env,
                str(run.config.seed),
                format_count(frames),
                f"{minutes:,.1f}",
                format_count(run.last("rate/learner_updates")) if "rate/learner_updates" in run.metrics else "",
                "" if math.isnan(run.score) else f"{run.score:,.4g}{run.mark}",
                " / ".join("-" if math.isnan(value) else f"{value:.0f}" for value in broken),
                f"torch {run.versions.get('torch', '?')}",
            ]
        )
    header = ["folder", "environment", "seed", "frames", "minutes", "updates", "score", "restarts / lost / skipped", ""]
    return "<h2>Runs</h2>" + _table(header, rows)


def _figure(title: str, chart: str) -> str:
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{chart}</figure>" if chart else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
