"""An experiment from its command to its files, with real trainings of a few seconds; and what it makes again."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster.commands import side_by_side
from cluster.commands.report.statistics import final_value
from cluster.run.command_line import parse_train
from cluster.telemetry.metrics import read_metrics
from cluster.telemetry.score import RULE
from results import (
    breakout,
    cartpole,
    command,
    disco_maze,
    experiment,
    hard_exploration,
    long_horizon,
    memory,
    pong,
    pong_ablation,
    random_coin,
    trainer,
)
from results.command import main
from results.earlier import _made_and_judged_alike
from results.experiment import FINISHED, Earlier, Experiment, Outcome, Run, Variant, training_arguments
from results.record import write_outcome

FRAMES = 1200
TAGS = ("evaluation/return", "rate/learner_updates")


def draw_nothing(outcome: Outcome, folder: Path) -> None:
    (folder / "drawn.png").write_text(" ".join(sorted(run.name for run in outcome.runs)))


TINY = Experiment(
    name="tiny",
    title="A tiny chain",
    env="tests.fakes:Chain-v0",
    variants=(Variant("plain"), Variant("Large beta, 0.5", ("--family.beta-max", "0.5"))),
    base_flags=(
        *("--max-env-frames", str(FRAMES), "--evaluation.period-env-frames", "200", "--log-seconds", "0.05"),
        *("--family.beta-max", "0.1", "--network.torso-size", "16", "--network.lstm-size", "16"),
        *("--evaluation.policy-index", "0"),
    ),
    quick_flags=("--max-env-frames", "100"),
    curve_tags=TAGS,
    draw=draw_nothing,
    preset="smoke",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny experiment was run with one seed."""
    root = tmp_path_factory.mktemp("root")
    assert main(TINY, ["--seeds", "1", "--jobs", "2"], root) == 0
    return root


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that are asked for; none is really made."""
    names: list[str] = []

    def train(experiment: Experiment, runs: list[Run], jobs: int, root: Path) -> int:
        names.extend(run.name for run in runs)
        return 0

    monkeypatch.setattr(command, "train", train)
    return names


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_curves_hold_what_the_runs_logged(root: Path) -> None:
    written = rows(root / "results" / "tiny" / "curves.csv")
    for variant in TINY.variants:
        metrics = read_metrics(root / "runs" / "results" / "tiny" / f"{variant.slug}-0")
        assert metrics["rate/learner_updates"].env_frames[-1] >= FRAMES
        for tag in TAGS:
            mine = [row for row in written if row["variant"] == variant.name and row["tag"] == tag]
            frames, values = ([float(row[key]) for row in mine] for key in ("env_frames", "value"))
            assert {row["seed"] for row in mine} == {"0"}
            if len(metrics[tag].values) <= 60:
                assert frames == metrics[tag].env_frames.tolist()
                assert values == pytest.approx(metrics[tag].values, rel=1e-4)
            else:
                assert 2 <= len(mine) <= 60
                assert metrics[tag].values.min() <= min(values) <= max(values) <= metrics[tag].values.max()
    returns = read_metrics(root / "runs" / "results" / "tiny" / "plain-0")["evaluation/return"]
    assert 3 <= len(returns.values) <= 60


def test_the_summary_has_a_row_per_variant(root: Path) -> None:
    written = rows(root / "results" / "tiny" / "summary.csv")
    assert [row["variant"] for row in written] == ["plain", "Large beta, 0.5"]
    for row, variant in zip(written, TINY.variants, strict=True):
        metrics = read_metrics(root / "runs" / "results" / "tiny" / f"{variant.slug}-0")
        expected = pytest.approx(final_value(metrics["evaluation/return"]), rel=1e-4)
        assert row["seeds"] == "1"
        assert [float(row[key]) for key in ("mean", "min", "max", "interval_low", "interval_high")] == [expected] * 5


def test_the_summary_can_be_made_from_the_curves(tmp_path: Path) -> None:
    """A metric that is logged more densely towards the end: the last fifth of its rows is not that of curves.csv."""
    (tmp_path / "config.json").write_text("{}")
    frames = np.unique(np.rint(1000 * np.linspace(0, 1, 500) ** 0.25))
    lines = [json.dumps({"env_frames": int(at), "minutes": 1.0, "evaluation/return": float(at)}) for at in frames]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    outcome = Outcome(TINY, [Run(TINY.variants[0], 0, tmp_path, ())])
    write_outcome(outcome, tmp_path)
    values = [float(row["value"]) for row in rows(tmp_path / "curves.csv")]
    (summary,) = rows(tmp_path / "summary.csv")
    assert float(summary["mean"]) == pytest.approx(np.mean(values[-math.ceil(len(values) / 5) :]), rel=1e-3)
    assert float(summary["mean"]) != pytest.approx(frames[-len(frames) // 5 :].mean(), rel=0.01)


def test_the_config_tells_variants_by_what_differs(root: Path) -> None:
    config = json.loads((root / "results" / "tiny" / "config.json").read_text())
    assert config["variants"] == {"plain": {"family.beta_max": 0.1}, "Large beta, 0.5": {"family.beta_max": 0.5}}
    assert config["common"]["network.lstm_size"] == 16
    assert config["common"]["serial"] is True
    assert config["common"]["run_dir"] == ""


def test_the_record_says_how_the_runs_were_made(root: Path) -> None:
    text = (root / "results" / "tiny" / "run.json").read_text()
    record = json.loads(text)
    assert record["command"] == "python -m results.tiny --seeds 1 --jobs 2"
    assert set(record["minutes_per_run"]) == {"plain, seed 0", "Large beta, 0.5, seed 0"}
    assert record["machine"]["cores"] >= 1
    assert {"python", "torch", "numpy"} <= set(record["versions"])
    training = record["first_training_of_each_variant"]["Large beta, 0.5"]
    assert "--run-dir runs/results/tiny/large-beta-0.5-0" in training
    assert training.endswith("--family.beta-max 0.5")
    # No path of this machine.
    assert str(root) not in text


def test_finished_runs_leave_a_log_and_no_replay(root: Path) -> None:
    folder = root / "runs" / "results" / "tiny"
    assert "stopped     reached" in (folder / "plain-0.log").read_text()
    assert not (folder / "plain-0" / "checkpoints").exists()
    assert (root / "results" / "tiny" / "drawn.png").read_text() == "Large beta, 0.5, seed 0 plain, seed 0"


def test_finished_runs_are_not_made_again(root: Path, made: list[str]) -> None:
    assert main(TINY, ["--seeds", "1"], root) == 0
    assert made == []
    main(TINY, ["--seeds", "2"], root)
    assert made == ["plain, seed 1", "Large beta, 0.5, seed 1"]


def test_other_flags_other_code_or_fresh_make_runs_again(
    root: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = (TINY.variants[0], Variant("Large beta, 0.5", ("--family.beta-max", "0.6")))
    main(Experiment(**vars(TINY) | {"variants": changed}), ["--seeds", "1"], root)
    assert made == ["Large beta, 0.5, seed 0"]
    made.clear()
    main(TINY, ["--seeds", "1", "--fresh", "--only", "plain"], root)
    assert made == ["plain, seed 0"]
    made.clear()
    main(TINY, ["--seeds", "2", "--fresh", "--only", "plain, seed 1"], root)
    assert made == ["plain, seed 1"]
    made.clear()
    monkeypatch.setattr(command, "code_digest", lambda code: "other")
    main(TINY, ["--seeds", "1", "--only", "beta*0.5"], root)
    assert made == ["Large beta, 0.5, seed 0"]


def test_a_partial_run_keeps_the_other_variants_in_the_outcome(root: Path, made: list[str]) -> None:
    assert main(TINY, ["--seeds", "1", "--only", "plain"], root) == 0
    assert len(rows(root / "results" / "tiny" / "summary.csv")) == 2
    assert main(TINY, ["--seeds", "1", "--only", "nothing like it"], root) == 2


@pytest.mark.parametrize("arguments", [["--seeds", "3", "--plot-only"], ["--seeds", "1"]])
def test_a_command_that_makes_no_run_draws_again_and_keeps_the_record(
    arguments: list[str], root: Path, made: list[str]
) -> None:
    output = root / "results" / "tiny"
    record = (output / "run.json").read_text()
    (output / "curves.csv").unlink()
    assert main(TINY, arguments, root) == 0
    assert made == []
    assert (output / "curves.csv").exists()
    assert (output / "run.json").read_text() == record


def test_extend_adds_runs_to_those_of_another_machine(
    root: Path, tmp_path: Path, made: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Seed 1 of one variant is here; of seed 0, and of the other variant, results/ tells."""
    output = tmp_path / "results" / "tiny"
    shutil.copytree(root / "results" / "tiny", output)
    before = {name: rows(output / name) for name in ("curves.csv", "summary.csv")}
    theirs = json.loads((output / "run.json").read_text())
    copy_as_seed_1(root, tmp_path)

    assert main(TINY, ["--seeds", "2", "--only", "plain, seed 1", "--extend"], tmp_path) == 0
    assert "1 of 4 runs are missing" in capsys.readouterr().out
    curves, summary = rows(output / "curves.csv"), rows(output / "summary.csv")
    assert [row for row in curves if row["seed"] == "0"] == before["curves.csv"]
    assert {row["variant"] for row in curves if row["seed"] == "1"} == {"plain"}
    assert [(row["variant"], row["seeds"]) for row in summary] == [("plain", "2"), ("Large beta, 0.5", "1")]
    # The copied run's numbers are those of seed 0.
    assert [float(row["mean"]) for row in summary] == pytest.approx(
        [float(row["mean"]) for row in before["summary.csv"]], rel=1e-3
    )
    record = json.loads((output / "run.json").read_text())
    assert set(record["minutes_per_run"]) == {"plain, seed 1"}
    assert record["earlier_runs"] == [theirs]
    assert json.loads((output / "config.json").read_text())["variants"]["Large beta, 0.5"]["family.beta_max"] == 0.5

    # Once more changes nothing.
    main(TINY, ["--seeds", "2", "--plot-only", "--extend"], tmp_path)
    assert rows(output / "curves.csv") == curves
    assert json.loads((output / "run.json").read_text())["earlier_runs"] == [theirs]
    # Without it, only what is here counts.
    main(TINY, ["--seeds", "2", "--plot-only"], tmp_path)
    assert {(row["variant"], row["seed"]) for row in rows(output / "curves.csv")} == {("plain", "1")}


def test_extend_leaves_out_what_was_made_with_other_flags_or_is_here_again(
    root: Path, tmp_path: Path, made: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results" / "tiny"
    shutil.copytree(root / "results" / "tiny", output)
    copy_as_seed_1(root, tmp_path)
    changed = Experiment(**vars(TINY) | {"variants": (TINY.variants[0], Variant("Large beta, 0.5", ("--seed", "9")))})
    assert main(changed, ["--seeds", "2", "--plot-only", "--extend"], tmp_path) == 0
    assert "trained or judged otherwise: Large beta, 0.5" in capsys.readouterr().out
    assert {row["variant"] for row in rows(output / "curves.csv")} == {"plain"}
    record = json.loads((output / "run.json").read_text())
    assert [set(earlier["minutes_per_run"]) for earlier in record["earlier_runs"]] == [{"plain, seed 0"}]

    shutil.copytree(root / "runs" / "results" / "tiny" / "plain-0", tmp_path / "runs" / "results" / "tiny" / "plain-0")
    main(changed, ["--seeds", "2", "--plot-only", "--extend"], tmp_path)
    record = json.loads((output / "run.json").read_text())
    assert set(record["minutes_per_run"]) == {"plain, seed 0", "plain, seed 1"}
    assert "earlier_runs" not in record


def test_extend_without_anything_to_extend_is_an_ordinary_command(
    fake_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(TINY, ["--seeds", "1", "--only", "plain", "--extend"], fake_root) == 0
    assert "earlier_runs" not in json.loads((fake_root / "results" / "tiny" / "run.json").read_text())
    with pytest.raises(SystemExit, match="2"):
        main(TINY, ["--quick", "--extend"], fake_root)
    assert "leave out --quick" in capsys.readouterr().err


def copy_as_seed_1(root: Path, other: Path) -> None:
    """Make plain, seed 0 of ``root`` a finished seed 1 below ``other``."""
    folder = other / "runs" / "results" / "tiny" / "plain-1"
    shutil.copytree(root / "runs" / "results" / "tiny" / "plain-0", folder)
    record = json.loads((folder / FINISHED).read_text())
    arguments = record["arguments"]
    arguments[arguments.index("--seed") + 1] = "1"
    arguments[arguments.index("--run-dir") + 1] = "runs/results/tiny/plain-1"
    (folder / FINISHED).write_text(json.dumps(record))


@pytest.fixture
def fake_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose launch.py only pretends to train."""
    (tmp_path / "launch.py").write_text(FAKE_TRAINING)
    for folder in TINY.code[:-1]:
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(trainer, "ROOT", tmp_path)
    monkeypatch.setattr(side_by_side, "ROOT", tmp_path)
    return tmp_path


FAKE_TRAINING = """
import json, pathlib, sys
arguments = sys.argv[1:]
run_dir = pathlib.Path(arguments[arguments.index("--run-dir") + 1])
seed = int(arguments[arguments.index("--seed") + 1])
if "0.5" in arguments:
    print("first line")
    sys.exit("out of luck")
run_dir.mkdir()
(run_dir / "config.json").write_text(json.dumps({"max_env_frames": 100, "network": {"size": 1}}))
row = {"env_frames": 100 - seed, "minutes": 1.0, "evaluation/return": 7.0}
(run_dir / "metrics.jsonl").write_text(json.dumps(row) + chr(10))
"""


def test_failed_and_stopped_runs_are_told_and_the_others_finish(
    fake_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second variant dies; seed 1 exits with 0 one frame short of its end, as after a signal."""
    assert main(TINY, ["--seeds", "2", "--jobs", "2"], fake_root) == 1
    said = capsys.readouterr().out
    assert "plain, seed 0: finished after" in said
    assert "plain, seed 1: FAILED" in said
    assert "Large beta, 0.5, seed 0: FAILED" in said
    assert "    | out of luck" in said
    assert "3 of 4 runs are missing" in said
    folder = fake_root / "runs" / "results" / "tiny"
    assert [path.parent.name for path in folder.rglob(FINISHED)] == ["plain-0"]
    assert [row["variant"] for row in rows(fake_root / "results" / "tiny" / "summary.csv")] == ["plain"]
    assert json.loads((fake_root / "results" / "tiny" / "run.json").read_text())["commits"] == ["None"]
    # Given again, the command makes the rest only.
    main(TINY, ["--seeds", "2", "--jobs", "1"], fake_root)
    assert "3 runs to make, 1 are there" in capsys.readouterr().out


def test_quick_runs_stay_apart_from_the_results(fake_root: Path) -> None:
    assert main(TINY, ["--quick", "--only", "plain"], fake_root) == 0
    folder = fake_root / "runs" / "results" / "tiny-quick"
    assert rows(folder / "curves.csv")[0]["seed"] == "0"
    assert "--max-env-frames 100" in (folder / "run.json").read_text()
    assert not (fake_root / "results").exists()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is heard, even where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_stops_the_trainings_under_way(fake_root: Path) -> None:
    """Each training interrupts the command that started it and then goes on for a minute."""
    lines = "import os, signal, time\nos.kill(os.getppid(), signal.SIGINT)\ntime.sleep(60)\n"
    (fake_root / "launch.py").write_text(lines)
    began = time.monotonic()
    with pytest.raises(SystemExit, match="130"):
        main(TINY, ["--seeds", "2", "--jobs", "1"], fake_root)
    assert time.monotonic() - began < 30
    assert [path.name for path in (fake_root / "runs" / "results" / "tiny").iterdir()] == ["plain-0.log"]


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("separate, bandit, beta_max 0.3", "separate-bandit-beta-max-0.3"),
        ("RND alone", "rnd-alone"),
        ("(odd) name!", "odd-name"),
    ],
)
def test_slugs_are_fit_for_folders(name: str, slug: str) -> None:
    assert Variant(name).slug == slug


def test_variants_that_would_share_a_folder_are_refused() -> None:
    with pytest.raises(ValueError, match="share a folder"):
        Experiment(**vars(TINY) | {"variants": (Variant("a b"), Variant("A-B"))})


MODULES = (breakout, cartpole, random_coin, disco_maze, memory, hard_exploration, long_horizon, pong, pong_ablation)
EXPERIMENTS = [module.EXPERIMENT for module in MODULES]


@pytest.mark.parametrize("tried", EXPERIMENTS, ids=lambda tried: tried.name)
def test_every_variant_of_the_experiments_is_a_valid_command(tried: Experiment) -> None:
    assert (Path(command.__file__).parent / f"{tried.name}.py").exists()
    configs = []
    for variant in tried.variants:
        flags = ["--preset", tried.preset, "--env", tried.env, *tried.base_flags, *variant.flags]
        configs.append(parse_train(flags).config)
        quick = parse_train([*flags, *tried.quick_flags]).config
        assert 0 < quick.max_env_frames < configs[-1].max_env_frames
        assert 0 < quick.evaluation.period_env_frames < quick.max_env_frames
    assert len(set(configs)) == len(tried.variants)


@pytest.mark.parametrize("tried", EXPERIMENTS, ids=lambda tried: tried.name)
def test_every_experiment_draws_with_variants_missing(
    tried: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first variant alone there are runs, and of made-up metrics."""
    maze = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 1]], np.bool_)
    monkeypatch.setattr(disco_maze, "play_episode", lambda folder: (maze, np.array([[1, 1], [1, 2], [1, 1]])))
    runs = []
    for seed in range(2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        tags = dict.fromkeys([*tried.curve_tags, tried.final_tag], 0.5)
        lines = [json.dumps({"env_frames": frames, "minutes": 1.0, **tags}) for frames in (100, 200)]
        (folder / "metrics.jsonl").write_text("\n".join(lines))
        runs.append(Run(tried.variants[0], seed, folder, ()))
    outcome = Outcome(tried, runs)
    tried.draw(outcome, tmp_path)
    assert list(tmp_path.glob("*.png"))
    # Runs that have no folder any more are drawn as well, but for pictures that need a checkpoint.
    monkeypatch.setattr(disco_maze, "play_episode", None)
    (tmp_path / "earlier").mkdir()
    tried.draw(Outcome(tried, [], Earlier(outcome.metrics)), tmp_path / "earlier")
    drawn, again = ({path.name for path in folder.glob("*.png")} for folder in (tmp_path, tmp_path / "earlier"))
    assert drawn - again == ({"paths.png"} if tried is disco_maze.EXPERIMENT else set())


def test_an_experiment_on_the_whole_machine_makes_one_run_at_a_time_through_ray(
    root: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(command, "train", lambda experiment, runs, jobs, root: asked.append(jobs) or 0)
    whole = dataclasses.replace(TINY, whole_machine=True)
    main(whole, ["--fresh"], root)
    main(TINY, ["--fresh", "--jobs", "3"], root)
    assert asked == [1, 3]
    options = command._parse(whole, [])
    assert "--serial" not in experiment.plan(whole, options, root, Path("runs"))[0].arguments
    assert "--serial" in experiment.plan(TINY, options, root, Path("runs"))[0].arguments


@pytest.mark.parametrize(("minutes", "reached"), [(4.99, True), (4.5, False)])
def test_a_run_limited_by_time_is_whole_at_its_last_minute(minutes: float, reached: bool, tmp_path: Path) -> None:
    config = {"max_minutes": 5.0, "max_env_frames": 1000, "log_seconds": 10.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"env_frames": 7, "minutes": minutes, "x": 1.0}))
    assert trainer._reached_its_end(tmp_path) is reached


def test_processor_time_is_counted_whatever_the_clock_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "ROOT", tmp_path)
    codes = ("import time; time.sleep(1.5)", "import time\nwhile time.process_time() < 1.2: pass")
    seconds = []

    def ended(run: Run, how: side_by_side.Ended) -> None:
        seconds.append(60 * how.core_minutes)

    for number, code in enumerate(codes):
        (tmp_path / f"{number}.py").write_text(code)
        run = Run(TINY.variants[0], number, tmp_path / str(number), (f"{number}.py",))
        side_by_side.make_runs(
            [run], 1, lambda run: run.arguments, lambda _, how: seconds.append(60 * how.core_minutes)
        )
    assert seconds[0] < 1 < 1.2 <= seconds[1] + 0.01


def test_the_maze_is_read_off_its_images() -> None:
    image = np.array([[[255, 0, 0], [0, 0, 0]], [[0, 255, 0], [0, 255, 255]]], np.uint8)
    assert disco_maze.agent_cell(image) == (1, 0)
    assert disco_maze.walls_of(image).tolist() == [[True, False], [False, True]]


def test_a_ratio_takes_the_moments_that_both_have() -> None:
    first = disco_maze.MetricSeries(np.array([1, 2, 4, 5]), np.zeros(4), np.array([2.0, 3.0, 8.0, 1.0]))
    second = disco_maze.MetricSeries(np.array([2, 3, 4, 5]), np.zeros(4), np.array([6.0, 1.0, 4.0, 0.0]))
    quotient = disco_maze.ratio(first, second)
    assert (quotient.env_frames.tolist(), quotient.values.tolist()) == ([2, 4], [0.5, 2.0])


def test_scores_of_an_earlier_rule_are_left_out_unless_the_policy_is_fixed() -> None:
    """Up to then the episodes that chose a policy judged it too."""
    variant = Variant("plain")
    for flags, old, new in (((), [], ["plain"]), (("--evaluation.policy-index", "0"), ["plain"], ["plain"])):
        experiment = Experiment(**vars(TINY) | {"variants": (variant,), "base_flags": flags})
        arguments = training_arguments(experiment, variant, 0, Path("runs/plain-0"))
        record = {"first_training_of_each_variant": {"plain": shlex.join(("python", *arguments))}}
        assert _made_and_judged_alike(experiment, record) == old
        assert _made_and_judged_alike(experiment, record | {"score": RULE}) == new
