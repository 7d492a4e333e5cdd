"""A novelty, a torso and a trace from outside the repository, as docs/extending.md shows them; and wrong ones."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import launch
from actors.exported_policy import load_policy
from actors.extensions import UnusableExtension, load_extensions
from actors.trusted_modules import UntrustedModule
from agent57.config import AgentConfig, IntrinsicConfig, LossConfig, NetworkConfig
from agent57.novelty import NOVELTIES
from agent57.torsos import TORSOS
from agent57.traces import TRACES
from cluster.run.checkpoint import Checkpoints, load_tree
from cluster.telemetry.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[2]
FLAGS = {
    "--intrinsic.novelty": "counts:Counts",
    "--network.torso": "residual:residual",
    "--loss.trace": "shorter:shorter",
}
MODULES = ("counts", "residual", "shorter")


def examples() -> dict[str, str]:
    """The page's files by name."""
    page = (ROOT / "docs" / "extending.md").read_text()
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page, re.S)
    return dict(blocks)


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the page's files; whatever is imported from it is forgotten afterwards."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in examples().items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    registries = [(registry, dict(registry)) for registry in (NOVELTIES, TORSOS, TRACES)]
    modules = set(sys.modules)
    yield folder
    for registry, before in registries:
        registry.clear()
        registry.update(before)  # type: ignore[arg-type]
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(folder) in str(sys.modules[name].__file__):
            del sys.modules[name]


def train(run_dir: Path, *more: str) -> int:
    flags = [text for pair in FLAGS.items() for text in pair]
    small = ["--preset", "smoke", "--evaluation.period-env-frames", "300", "--log-seconds", "0.2"]
    env = ["--env", "Agent57/RandomCoin-v0", "--run-dir", str(run_dir)]
    return launch.main(["train", *env, *small, *flags, *more])


def test_the_page_has_all_three() -> None:
    assert set(examples()) == {f"{module}.py" for module in MODULES}


def test_a_run_trains_stops_resumes_plays_and_is_exported_with_all_three(
    outside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(run, "--serial", "--max-env-frames", "1500") == 0
    metrics = read_metrics(run)
    rarity = metrics["intrinsic/rarity"].values
    assert 0 < rarity[-1] < 1
    assert np.isfinite(metrics["learner/intrinsic_loss"].values).all()
    assert 0 < metrics["learner/trace_coefficient"].values[-1] < 0.95
    assert not any("embedding" in tag or "rnd" in tag for tag in metrics)
    capsys.readouterr()
    for command in (
        ["train", "--resume", str(run), "--max-env-frames", "2000"],
        ["eval", str(run), "--episodes", "1"],
        ["export", str(run), "--output", str(tmp_path / "policy")],
    ):
        assert launch.main(command) == 2
        assert "--trust-modules counts" in capsys.readouterr().err
        assert launch.main([*command, "--trust-modules", ",".join(MODULES)]) == 0, command
    # What outlives episodes outlives the resume: every step of the run was counted.
    newest = Checkpoints(run, 2).latest_or_error(pytest.fail)
    (state,) = load_tree(newest, "supervisor")["running_states"].values()
    assert sum(state["seen"].values()) >= int(newest.name) >= 2000
    with pytest.raises(UntrustedModule, match="trust_modules"):
        load_policy(tmp_path / "policy")
    policy = load_policy(tmp_path / "policy", trust_modules=MODULES)
    env = policy.make_env()
    assert policy.act(env.reset(seed=0)[0]) in range(5)


@pytest.mark.ray
def test_it_works_under_ray_too(outside: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(run, "--max-env-frames", "1500", "--cluster.object-store-gb", "0.1") == 0
    assert read_metrics(run)["intrinsic/rarity"].values[-1] > 0


@pytest.mark.parametrize("field", FLAGS)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.to_be:Found", "cannot be imported (No module named 'nowhere'"),
        ("counts:Missing", "the module counts has no Missing"),
        ("counts:__doc__", "but a str"),
        ("nonsense", "or module:Name of one of your own (got 'nonsense')"),
        ("leaves:Anything", "cannot be imported: SystemExit"),
    ],
)
def test_a_wrong_one_is_one_sentence(
    field: str, name: str, words: str, outside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (outside / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    command = ["train", "--env", "Agent57/RandomCoin-v0", "--run-dir", str(tmp_path / "run"), field, name]
    assert launch.main(command) == 2
    said = capsys.readouterr().err
    assert words in said
    assert field.removeprefix("--") in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_a_torso_that_cannot_be_built_is_one_sentence(
    outside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (outside / "broken.py").write_text("def torso(spec, config, input_scale):\n    return spec.no_such_thing\n")
    command = ["train", "--env", "Agent57/RandomCoin-v0", "--run-dir", str(tmp_path / "run")]
    assert launch.main([*command, "--network.torso", "broken:torso"]) == 2
    said = capsys.readouterr().err
    assert "No network can be built for Agent57/RandomCoin-v0: AttributeError" in said
    assert "Traceback" not in said


def test_what_is_built_in_needs_no_import() -> None:
    load_extensions(AgentConfig())
    for agent in (
        AgentConfig(loss=LossConfig(trace="x")),
        AgentConfig(network=NetworkConfig(torso="x")),
        AgentConfig(intrinsic=IntrinsicConfig(novelty="x")),
    ):
        with pytest.raises(UnusableExtension, match="got 'x'"):
            load_extensions(agent)
