"""The README and docs/ against the code: presets, metrics, links and commands that they name.

``python -m tests.test_docs`` prints the README's table of presets anew.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster.run.command_line import parse_train
from cluster.run.presets import PRESETS
from cluster.telemetry.tensorboard.layout import LAYOUT
from examples import ddpg_pendulum, gaussian_policy_gradient, reinforce_cartpole
from launch import COMMANDS, main
from results.command import main as run_experiment
from results.memory import EXPERIMENT

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "README.md"]
BEGIN, END = "<!-- presets: begin -->\n", "<!-- presets: end -->"
# The run below is serial; with Ray these two processes exist as well (`RayFleet.memory`, `ReplayShard.stats`).
RAY_ONLY = {"memory_mb/supervisor", "memory_mb/replay", "memory_mb/weights"}
# Written where the environment tells revisits (`tests/test_ablations.py` trains on one).
REVISITS_ONLY = {
    "intrinsic/episodic_new",
    "intrinsic/episodic_revisits",
    "intrinsic/count_bonus_new",
    "intrinsic/count_bonus_revisits",
    "return/new_states",
    "evaluation/new_states",
}
EXAMPLES = (ddpg_pendulum, gaussian_policy_gradient, reinforce_cartpole)
# `tests/cluster/test_telemetry.py` has all of these written.
ATARI_ONLY = {"evaluation/human_normalised", "evaluation/human_normalised_capped"}
IMAGES_ONLY = {"evaluation/episode"}
WHEN_ILL_ONLY = {"run/warnings"}
NOT_HERE = {"scalars": RAY_ONLY | REVISITS_ONLY | ATARI_ONLY, "images": IMAGES_ONLY, "texts": WHEN_ILL_ONLY}
KINDS = ("scalars", "images", "histograms", "texts")
OTHER_PROGRAMS_FLAGS = {"--logdir", "--index-url", "--shm-size", "--gpus", "--head", "--generate"}


# The table of presets


def fields_of(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(flag without dashes, value) of every field of a config, nested ones too."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, name + ".")
        else:
            yield name, value


def preset_table() -> str:
    """Markdown: a row for each field in which some preset differs from ``paper``."""
    presets = {name: dict(fields_of(config)) for name, config in PRESETS.items()}
    paper = presets["paper"]
    lines = [f"| | {' | '.join(f'`{name}`' for name in presets)} |", "|---" * (len(presets) + 1) + "|"]
    for name, value in paper.items():
        if all(values[name] == value for values in presets.values()):
            continue
        cells = [_typed(v[name]) if v is paper or v[name] != value else "" for v in presets.values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _typed(value: Any) -> str:
    """``value`` as one would type it on the command line; switches as yes or no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_preset_table_is_that_of_the_presets() -> None:
    readme = (ROOT / "README.md").read_text()
    written = readme.split(BEGIN)[1].split(END)[0]
    assert written == preset_table(), "replace the README's table by what 'python -m tests.test_docs' prints"


# Metrics


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Tags by kind that a short serial run, its resume, and two with other parts wrote."""
    run_dir = tmp_path_factory.mktemp("docs") / "run"
    often = "--evaluation.period-env-frames 400 --evaluation.episodes 8 --log-seconds 0.2 --learner.device cpu"
    tiny = "--network.torso-size 16 --network.lstm-size 16 --network.head-size 16"
    meme = "--loss.trace soft_watkins --loss.bootstrap online --loss.trust-region 1 --loss.td-scale policy"
    first = f"--serial --preset smoke --env CartPole-v1 --run-dir {run_dir} --max-env-frames 1200 {often} {tiny} {meme}"
    with _handlers_and_threads_restored():
        assert main(["train", *shlex.split(first)]) == 0
        assert main(["train", "--resume", str(run_dir), "--max-env-frames", "1600"]) == 0
        others = {"shared": "--network.kind shared --network.policy-head", "recode": "--intrinsic.novelty recode"}
        for name, flags in others.items():
            assert main(["train", *shlex.split(first.replace(str(run_dir), f"{run_dir}-{name}")), *flags.split()]) == 0
    logs = [folder / "metrics.jsonl" for folder in run_dir.parent.glob("run*")]
    rows = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    scalars = {tag for row in rows for tag in row} - {"env_frames", "minutes"}
    histograms, images, texts = set(), set(), set()
    for path in run_dir.glob("events.out.tfevents.*"):
        tags = EventAccumulator(str(path)).Reload().Tags()
        histograms |= set(tags["histograms"])
        images |= set(tags["images"])
        texts |= {tag.removesuffix("/text_summary") for tag in tags["tensors"] if tag.endswith("/text_summary")}
    scalars = {_generic(tag) for tag in scalars}
    return {"scalars": scalars, "images": images, "histograms": histograms, "texts": texts}


@contextmanager
def _handlers_and_threads_restored() -> Iterator[None]:
    """Undo what training does to the process that it runs in."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _generic(tag: str) -> str:
    """``tag`` with policy and worker numbers as docs/metrics.md writes them."""
    return re.sub(r"worker_\d+$", "worker_N", re.sub(r"/\d\d$", "/NN", tag))


def documented(kind: str) -> list[str]:
    """Tags in the tables of docs/metrics.md, under "Images", "Histograms", "Texts", or any other heading (scalars)."""
    found, heading = [], ""
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ").lower()
        row = re.match(r"\| `([^`]+)` \|", line)
        if row and kind == (heading if heading in KINDS else "scalars"):
            found.append(row[1])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_page_lists_exactly_what_is_written(emitted: dict[str, set[str]], kind: str) -> None:
    listed = documented(kind)
    assert len(listed) == len(set(listed)), "a tag is listed twice"
    expected = (emitted[kind] - WHEN_ILL_ONLY) | NOT_HERE.get(kind, set())
    assert expected - set(listed) == set(), "written, but not in docs/metrics.md"
    assert set(listed) - expected == set(), "in docs/metrics.md, but never written"


def test_tags_named_elsewhere_exist() -> None:
    known = {tag for kind in KINDS for tag in documented(kind)}
    groups = {tag.split("/")[0] for tag in known}
    for page in PAGES:
        for code in inline_code(page):
            if code.split("/")[0] in groups and re.fullmatch(r"[a-z_]+/[\w]+", code):
                assert code in known, f"{page.name} names the tag {code}"


def test_every_metric_has_a_unit_a_meaning_and_a_healthy_look() -> None:
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        if re.match(r"\| `[^`]+` \|", line):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) in (3, 5), line
            assert all(cells), f"an empty cell: {line}"


def test_custom_scalars_show_documented_tags_once() -> None:
    shown = [tag for charts in LAYOUT.values() for tags in charts.values() for tag in tags]
    known = {re.sub(r"^memory_mb/.*", "memory_mb/N", tag) for tag in documented("scalars")}
    assert set(shown) - known == set(), "on the Custom Scalars page, but not in docs/metrics.md"
    assert len(shown) == len(set(shown))
    assert "evaluation/return" in shown


# Links and commands


def inline_code(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))


def commands(page: Path) -> list[str]:
    """Commands of a page's code blocks and inline code that call this project."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    ours = ("launch.py", "-m ", "examples/")
    return [line for line in lines + inline_code(page) if "python " in line and any(name in line for name in ours)]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", page.read_text()) if "://" not in link]
    assert links, "found no link to check"
    broken = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    return capsys.readouterr().out


def test_flags_exist(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    flag = re.compile(r"(?<!\S)--[a-z][\w.-]*")
    known = {name: set(flag.findall(help_of(name, capsys).replace(",", " "))) for name in COMMANDS}
    known["suite"] |= known["train"]
    with pytest.raises(SystemExit):
        run_experiment(EXPERIMENT, ["--help"])
    known["results"] = set(flag.findall(capsys.readouterr().out))
    for example in EXAMPLES:
        fields = {name for name, _ in fields_of(example.Args())}
        known[example.__name__.removeprefix("examples.")] = {f"--{name}" for name in fields}
    sources = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    known["benchmarks"] = set(re.findall(r'add_argument\("(--[a-z-]+)"', sources))
    known["any"] = set().union(*known.values()) | OTHER_PROGRAMS_FLAGS
    checked = 0
    for page in PAGES:
        for code in {*inline_code(page), *commands(page)}:
            called = re.search(r"(?:launch\.py |-m |examples/)(results\b|\w+)", code)
            for name in flag.findall(code):
                checked += 1
                assert name in known.get(called[1] if called else "any", known["any"]), (
                    f"{page.name} names the flag {name}: {code}"
                )
    assert checked > 50
    fields = {name for name, _ in fields_of(PRESETS["paper"])}
    sections = {name.split(".")[0] for name in fields if "." in name}
    for page in PAGES:
        for code in inline_code(page):
            if code.split(".")[0] in sections and re.fullmatch(r"[a-z]+\.[a-z-]+", code) and not code.endswith(".json"):
                assert code in fields, f"{page.name} names the field {code}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_train_commands_parse(page: Path) -> None:
    for command in commands(page):
        called = re.search(r"launch\.py train(.*)", command)
        if called and "--resume" not in command and "--help" not in command and not called[1].endswith("..."):
            parse_train(shlex.split(called[1]))


def test_modules_that_commands_run_exist() -> None:
    modules = {name for page in PAGES for command in commands(page) for name in re.findall(r"-m ([\w.]+)", command)}
    assert "benchmarks.acting" in modules
    for name in modules - {"venv", "pytest"}:
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


def test_readme_begins_with_two_whole_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    setup = [line for line in lines if line.startswith("python3 -m venv .venv && ")]
    assert len(setup) == 2
    # Continuous integration runs the first line that says so, as it stands.
    assert next(line for line in lines if "python -m pytest" in line) == setup[1]
    assert next(line for line in lines if "launch.py train" in line) == setup[0]


if __name__ == "__main__":
    print(preset_table(), end="")
