"""The report: from two tiny runs to a page, and its statistics against hand-computed values."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import launch
from actors.environments.atari.scores import RANDOM_AND_HUMAN_SCORES
from cluster.commands.report.aggregate import estimate, mean_capped, mean_of_games, median_of_games, pooled_iqm
from cluster.commands.report.runs import group, load_runs
from cluster.commands.train import train
from cluster.run.config import TrainConfig, save_config
from cluster.run.presets import LAPTOP, SMOKE
from tests.cluster.tiny import tiny_config

VOID = {"meta", "br", "img"}


class Checker(HTMLParser):
    """Collects text, tags and anything that would be fetched from elsewhere; notices tags left open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(path: Path) -> Checker:
    checker = Checker()
    checker.feed(path.read_text())
    checker.close()
    assert checker.open == []
    return checker


def write_run(folder: Path, config: TrainConfig, scores: list[float]) -> Path:
    """A run folder as a run leaves it, with these evaluations at 1 000, 2 000, ... frames."""
    folder.mkdir(parents=True)
    save_config(config, folder / "config.json")
    (folder / "versions.json").write_text('{"torch": "9.9"}')
    rows = []
    for index, score in enumerate(scores):
        place = {"env_frames": 1000 * (index + 1), "minutes": 0.5 * (index + 1)}
        rows.append(place | {"evaluation/return": score})
        rows.append(place | {"rate/env_frames_per_second": 100.0, "health/restarts": 2.0, "bandit_share/00": 0.75})
        rows.append(place | {"bandit_share/01": 0.25, "rate/learner_updates": 10.0 * index})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def report(folders: list[Path], output: Path) -> Checker:
    assert launch.main(["report", *map(str, folders), "--output", str(output)]) == 0
    return parsed(output)


def test_two_tiny_runs_make_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Really trained ones; the folders alone are read, wherever they were moved."""
    for seed in (0, 1):
        config = tiny_config(seed=seed, max_env_frames=1500, run_dir=str(tmp_path / f"first{seed}"))
        assert train(config, "smoke", None) == 0
        for leftover in (tmp_path / f"first{seed}").glob("events.*"):
            leftover.unlink()
        (tmp_path / f"first{seed}").rename(tmp_path / f"run{seed}")
    page = report([tmp_path / "run0", tmp_path / "run1"], tmp_path / "report.html")
    text = " ".join(page.text)
    assert "Agent57: 2 runs" in text
    assert "tests.fakes:Chain-v0" in text
    for heading in ("Final scores", "Greedy return (the score)", "Policies played", "Throughput"):
        assert heading in text
    assert page.tags.count("svg") >= 6
    # Nothing from elsewhere: charts refer to parts of themselves.
    assert all(place.startswith("#") for place in page.fetched)
    assert "url(" not in (tmp_path / "report.html").read_text().replace('clip-path="url(#', "")
    assert "run0" in text
    assert "agent: 2 runs" in capsys.readouterr().out


def test_seeds_are_grouped_and_settings_told_apart(tmp_path: Path) -> None:
    retrace = dataclasses.replace(LAPTOP, loss=dataclasses.replace(LAPTOP.loss, trace="retrace"))
    for seed, score in enumerate((-20.0, -10.0, 0.0)):
        write_run(tmp_path / f"peng{seed}", dataclasses.replace(LAPTOP, seed=seed), [-21.0] * 4 + [score])
    longer = dataclasses.replace(retrace, max_env_frames=77, run_dir="elsewhere")
    write_run(tmp_path / "retrace0", longer, [-21.0, 14.6])
    groups, settings = group(load_runs([tmp_path]))
    assert [(one.label, len(one.runs)) for one in groups] == [("trace peng", 3), ("trace retrace", 1)]
    assert settings == [{"loss.trace": "peng"}, {"loss.trace": "retrace"}]
    # The last fifth of five evaluations is the last one.
    assert groups[0].scores.tolist() == [-20.0, -10.0, 0.0]
    page = report([tmp_path], tmp_path / "report.html")
    text = " ".join(page.text)
    assert "-10 (-20 to 0)" in text
    assert "2 / - / -" in text
    assert "torch 9.9" in text
    # Human-normalised by hand: (-10 + 20.7) / 35.3.
    assert f"{10.7 / 35.3:.1%}" in text


def test_aggregate_appears_for_atari_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "cart", dataclasses.replace(SMOKE, env="CartPole-v1"), [10.0, 20.0])
    assert "Human-normalised scores over games" not in " ".join(report([tmp_path / "cart"], tmp_path / "a.html").text)
    write_run(tmp_path / "pong", SMOKE, [-20.7, 14.6])
    both = " ".join(report([tmp_path / "cart", tmp_path / "pong"], tmp_path / "b.html").text)
    assert "Human-normalised scores over games" in both
    assert "1 of 1" in both


def test_runs_without_evaluations_are_shown_without_a_score(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "young", SMOKE, [1.0])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    assert "no evaluation yet" in " ".join(report([folder], tmp_path / "report.html").text)


MISTAKES = {
    "no run": (["{tmp}/nothing"], "not the folder of a run"),
    "nothing logged": (["{tmp}/empty"], "nothing was logged"),
    "an output that cannot be": (["{tmp}/good", "--output", "{tmp}/no/such/report.html"], "--output"),
    "an unknown flag": (["{tmp}/good", "--outptu", "x"], "--help"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_sentence(mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "good", SMOKE, [1.0])
    (tmp_path / "empty").mkdir()
    save_config(SMOKE, tmp_path / "empty" / "config.json")
    arguments, hint = MISTAKES[mistake]
    assert launch.main(["report", *(one.replace("{tmp}", str(tmp_path)) for one in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert hint in error
    assert len(error.strip().splitlines()) == 1


# Statistics


def test_aggregates_by_hand() -> None:
    games = [np.array([0, 1, 2.0]), np.array([2, 4, 6.0]), np.array([0.5, 0.5, 0.2]), np.array([-1, 9, 1.0])]
    # Sorted: -1 0 .2 | .5 .5 1 1 2 2 | 4 6 9: the middle half of twelve.
    assert pooled_iqm(games) == pytest.approx((0.5 + 0.5 + 1 + 1 + 2 + 2) / 6)
    assert mean_of_games(games) == pytest.approx((1 + 4 + 0.4 + 3) / 4)
    assert median_of_games(games) == pytest.approx((1 + 3) / 2)
    assert mean_capped(games) == pytest.approx((2 / 3 + 1 + 0.4 + 2 / 3) / 4)


def test_intervals_draw_seeds_within_each_game() -> None:
    """Games far apart but each without spread: drawing games would vary, drawing seeds must not."""
    settled = [np.full(3, 0.0), np.full(3, 10.0)]
    fixed = estimate(settled, mean_of_games)
    assert (fixed.low, fixed.value, fixed.high) == (5.0, 5.0, 5.0)
    one_game = estimate([np.array([0.0, 1.0])], mean_of_games)
    # Two draws of two: 0, 1/2, 1/2, 1, so 95 % reach from end to end.
    assert (one_game.low, one_game.value, one_game.high) == (0.0, 0.5, 1.0)
    assert estimate([np.array([0.3])], pooled_iqm).low == 0.3


def test_agrees_with_rliable() -> None:
    """Where it is installed (`pip install rliable "pandas<3"`); it brings scipy, seaborn and more for a few lines."""
    try:
        from rliable import library, metrics
    except Exception as error:  # version 1.2 cannot be imported beside pandas 3
        pytest.skip(f"rliable: {error}")
    scores = np.random.default_rng(0).gamma(2.0, 0.5, size=(5, 12))  # runs x games
    games = list(scores.T)
    points, intervals = library.get_interval_estimates(
        {"agent": scores}, lambda x: np.array([metrics.aggregate_iqm(x), metrics.aggregate_median(x)]), reps=4000
    )
    for column, statistic in enumerate((pooled_iqm, median_of_games)):
        ours = estimate(games, statistic, resamples=4000)
        assert ours.value == pytest.approx(points["agent"][column])
        assert [ours.low, ours.high] == pytest.approx(intervals["agent"][:, column].tolist(), abs=0.02)


def test_every_game_of_the_table_can_be_normalised(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "human", SMOKE, [RANDOM_AND_HUMAN_SCORES["pong"][1]] * 3)
    (run,) = load_runs([folder])
    assert run.human_normalised == pytest.approx(1.0)
