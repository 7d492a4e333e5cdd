"""``launch.py eval`` and ``export``: scores, files, video, and a policy that acts as the learner's networks do."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import av
import gymnasium
import numpy as np
import pytest
import torch

import agent57
import launch
from actors.config import ActorConfig
from actors.environments.contract import EnvironmentConfig
from actors.exported_policy import CONFIG_FILE, WEIGHTS_FILE, ExportedPolicy
from actors.lanes import LaneStep
from actors.rollout import Episode
from agent57.config import IntrinsicConfig
from agent57.errors import both_networks
from cluster.commands.evaluation import make_evaluator, record
from cluster.commands.saved_agent import load_agent
from cluster.commands.train import train
from cluster.commands.video import EpisodePanel, VideoFile, picture_of
from cluster.run.config import TrainConfig
from cluster.run.messages import EvaluationRequest
from cluster.runtime.services import EvaluatorService, LearnerService, LocalWeights
from tests.cluster.tiny import tiny_config

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seconds on CartPole, whose pictures can be drawn."""
    folder = tmp_path_factory.mktemp("evaluation") / "run"
    config = tiny_config(
        env="CartPole-v1",
        max_env_frames=1500,
        run_dir=str(folder),
        intrinsic=IntrinsicConfig(num_neighbours=3, memory_capacity=500, error_horizon=1000),
    )
    assert train(config, "smoke", None) == 0
    return folder


@pytest.fixture(scope="module")
def policy_dir(run_dir: Path) -> Path:
    assert launch.main(["export", str(run_dir), "--policy-index", "2"]) == 0
    return run_dir / "policy"


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


# Scores


def test_table_json_and_csv_agree(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--json", str(tmp_path / "scores.json"), "--csv", str(tmp_path / "scores.csv")]
    assert launch.main(["eval", str(run_dir), "--episodes", "5", "--lanes", "2", "--policy-index", "1", *files]) == 0
    shown = capsys.readouterr().out
    scores = json.loads((tmp_path / "scores.json").read_text())
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    returns = [float(row["return"]) for row in rows]
    assert len(returns) == scores["episodes"] == 5
    assert returns == scores["returns"]
    # CartPole pays 1 per step.
    assert returns == [float(row["length"]) for row in rows]
    assert {row["policy_index"] for row in rows} == {"1"}
    assert {row["epsilon"] for row in rows} == {"0.01"}
    assert scores["mean"] == pytest.approx(np.mean(returns))
    assert scores["standard_error"] == pytest.approx(np.std(returns, ddof=1) / np.sqrt(5))
    assert scores["human_normalised"] is None
    assert f"{np.mean(returns):,.2f}" in shown
    assert "1 of 4" in shown


def test_the_greedy_arm_is_played_unless_one_is_named(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = load_agent(run_dir, print)
    assert launch.main(["eval", str(run_dir), "--episodes", "1"]) == 0
    assert f"{agent.greedy_arm} of 4 (the greedy arm)" in capsys.readouterr().out
    other = (agent.greedy_arm + 1) % 4
    assert launch.main(["eval", str(run_dir), "--episodes", "1", "--policy-index", str(other)]) == 0
    assert "(the greedy arm)" not in capsys.readouterr().out


def test_evaluation_is_untouched_by_training_epsilon() -> None:
    """The evaluator's episodes are the same, step for step, whatever epsilons training's lanes have."""

    def episodes(actor: ActorConfig) -> list[Episode]:
        config = tiny_config(env="CartPole-v1", actor=actor)
        weights = LocalWeights()
        LearnerService(config, serial=True).publish(weights)
        service = EvaluatorService(config, reproducible=True)
        request = EvaluationRequest(10_000, 1, True, 0, weights)
        return service.evaluate(request).episodes

    greedy = episodes(ActorConfig(steps_per_request=20, epsilon_base=1e-6, epsilon_alpha=0.0))
    random = episodes(ActorConfig(steps_per_request=20, epsilon_base=1.0, epsilon_alpha=0.0))
    assert greedy == random
    assert {episode.epsilon for episode in greedy} == {0.01}


def test_novelty_goes_on_from_trainings_moments(run_dir: Path) -> None:
    """Without them, the first steps of an evaluation would pay another r^i than training does."""
    agent = load_agent(run_dir, print)
    assert agent.running_state is not None
    evaluator = make_evaluator(agent, 0, num_lanes=3)
    evaluator.begin_with([0, 0, 0])
    saved = evaluator.lanes.running_state()
    assert saved["novelty"] == agent.running_state["novelty"]
    seen = agent.running_state["distance_weight"] > 0
    means = (agent.running_state["distance_sum"] / agent.running_state["distance_weight"])[seen]
    np.testing.assert_allclose(saved["distance_sum"] / saved["distance_weight"], [float(means.mean())] * 3)


def test_a_run_ends_by_saying_where_everything_is(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And every command that it names does what it says, or at least exists."""
    before = {path.name for path in run_dir.iterdir()}
    assert launch.main(["train", "--resume", str(run_dir), "--max-env-frames", "1600"]) == 0
    shown = capsys.readouterr().out
    rows = dict(re.findall(r"^(\w+(?: \w+)?) {2,}(.*)$", shown[shown.index("stopped ") :], flags=re.MULTILINE))
    assert rows["stopped"].startswith("reached 1,600 environment frames, after 0:0")
    assert rows["troubles"] == "0 restarts, 0 warnings"
    assert Path(rows["checkpoint"]).is_dir()
    assert re.fullmatch(r"[0-9.,]+ \(newest evaluation, 1 episode\)", rows["score"])
    for name in ("go on", "evaluate", "watch", "report", "export"):
        command, *arguments = rows[name].removeprefix("python launch.py ").split()
        assert command in launch.COMMANDS
        assert str(run_dir) in arguments
    assert before <= {path.name for path in run_dir.iterdir()}


# Video


def test_video_has_a_frame_per_observation_with_an_overlay(run_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    files = ["--video", str(path), "--json", str(tmp_path / "scores.json")]
    assert launch.main(["eval", str(run_dir), *files]) == 0
    (length,) = json.loads((tmp_path / "scores.json").read_text())["lengths"]
    frames = frames_of(path)
    assert len(frames) == length + 1
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []
    # CartPole's white picture on the left, the dark panel with bright letters on the right.
    picture, panel = frames[0][:, :700], frames[0][:, -320:]
    assert picture.mean() > 200
    assert panel.mean() < 80
    assert panel.max() > 200
    # The panel's numbers change from step to step.
    changed = np.abs(frames[3][:, -320:].astype(int) - frames[4][:, -320:].astype(int))
    assert (changed > 60).sum() > 20


def test_overlay_says_what_the_step_was(run_dir: Path) -> None:
    agent = load_agent(run_dir, print)
    evaluator = make_evaluator(agent, 7, num_lanes=1)
    panel = EpisodePanel("CartPole-v1", agent.config.agent, ["left", "right"])
    blank = np.full((30, 40, 3), 255, np.uint8)
    seen: list[tuple[LaneStep, dict[str, str], np.ndarray]] = []

    def look(step: LaneStep, pictures: list[np.ndarray]) -> None:
        frame = panel.draw(step, blank)
        seen.append((step, dict(panel.lines(step, int(step.actions[0]))), frame))

    evaluator.begin_with([3])
    (episode,) = [one for _ in range(600) for one in evaluator.play(1, look)]
    assert len(seen) == episode.length + 1
    for number, (step, lines, _) in enumerate(seen):
        assert lines["step"] == str(number)
        assert lines["policy"] == "3 of 4"
        assert lines["beta"] == "0.3000"
        assert float(lines["r^e"]) == (number > 0)
        assert float(lines["return"]) == number
        alpha = float(np.clip(step.parts["alpha"][0], 1, 5))
        factors = float(lines["  episodic"]) * np.clip(float(lines["  life-long"]), 1, 5)
        if number:
            assert float(lines["r^i"]) == pytest.approx(float(step.parts["episodic"][0]) * alpha, abs=1e-4)
            assert factors == pytest.approx(float(lines["r^i"]), rel=2e-3, abs=1e-3)
        q = step.q[0, :, int(step.actions[0])]
        assert [float(lines["Q^e(a)"]), float(lines["Q^i(a)"])] == pytest.approx(q.tolist(), abs=1e-4)
    assert seen[-1][1]["action"] == "end"
    assert seen[0][1]["action"].startswith(("left", "right"))
    assert seen[0][2].shape == (480, 640 + 330, 3)


@pytest.mark.parametrize(
    "observation",
    [
        np.zeros((1, 84, 84), np.uint8),
        np.zeros((3, 7, 7), np.float32),
        np.linspace(-2, 2, 5, dtype=np.float32),
    ],
)
def test_environments_that_cannot_be_drawn_show_their_observation(observation: np.ndarray) -> None:
    picture = picture_of(observation)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert len(np.unique(picture)) > 1 or not observation.any()


def test_an_interrupted_video_leaves_nothing(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: VideoFile, picture: np.ndarray) -> None:
        if self.frames == 3:
            raise RuntimeError("stop")
        original(self, picture)

    original = VideoFile.add
    monkeypatch.setattr(VideoFile, "add", fail)
    with pytest.raises(RuntimeError, match="stop"):
        record(load_agent(run_dir, print), 0, 1, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


MISTAKES = {
    "no run": (["{tmp}"], "config.json"),
    "another format": (["{run}", "--video", "out.avi"], "out.mp4"),
    "no folder": (["{run}", "--json", "{tmp}/no/such/file.json"], "--json"),
    "no such policy": (["{run}", "--policy-index", "4"], "between 0 and 3"),
    "no episodes": (["{run}", "--episodes", "0"], "at least 1"),
    "a typo": (["{run}", "--episode", "3", "--vidoe", "x"], "--help"),
    "words for numbers": (["{run}", "--episodes", "many"], "many"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_sentence(
    mistake: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, hint = MISTAKES[mistake]
    filled = [one.replace("{tmp}", str(tmp_path)).replace("{run}", str(run_dir)) for one in arguments]
    assert launch.main(["eval", *filled]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert hint in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# Export


def test_exported_policy_acts_as_the_learners_networks_do(run_dir: Path, policy_dir: Path) -> None:
    """Over an episode, step by step, against the learner's own networks unrolled over the whole sequence at once."""
    learner = learner_of(run_dir)
    policy = agent57.load_policy(policy_dir, epsilon=0.0)
    for name, tensor in learner.learner.networks.state_dict().items():
        assert torch.equal(policy.networks.state_dict()[name], tensor), name
    env = policy.make_env()
    observation, _ = env.reset(seed=2)
    policy.reset()
    trace: dict[str, list[Any]] = {name: [] for name in ("x", "a", "r", "i", "q")}
    reward, action, over = 0.0, -1, False
    while not over:
        trace["x"].append(observation)
        trace["a"].append(action)
        trace["r"].append(reward)
        action = policy.act(observation, reward)
        trace["i"].append(policy.intrinsic_reward)
        trace["q"].append(policy.q)
        observation, reward, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
    networks = learner.learner.networks
    size = policy.agent.network.lstm_size
    inputs = (
        torch.tensor(np.stack(trace["x"]))[:, None],
        torch.tensor(trace["a"])[:, None],
        torch.tensor(trace["r"], dtype=torch.float32)[:, None],
        torch.tensor(trace["i"], dtype=torch.float32)[:, None] / networks.scales.intrinsic,
        torch.tensor([2]),
        (torch.zeros(1, size), torch.zeros(1, size)),
    )
    with torch.no_grad():
        expected = both_networks([network(*inputs)[0] for network in networks.q_networks])[:, :, 0]
    np.testing.assert_allclose(np.stack(trace["q"], 1), expected.numpy(), rtol=1e-4, atol=1e-5)
    assert len(trace["q"]) > 5
    assert max(trace["i"]) > 0


def learner_of(run_dir: Path) -> LearnerService:
    agent = load_agent(run_dir, print)
    learner = LearnerService(agent.config, serial=True)
    learner.load(agent.checkpoint)
    return learner


def test_exported_policy_acts_as_the_evaluator_does(run_dir: Path, policy_dir: Path) -> None:
    """On the evaluator's observations: the same novelty, from the same running moments, values and actions."""
    agent = load_agent(run_dir, print)
    greedy = dataclasses.replace(agent.config.evaluation, epsilon=0.0)
    agent = dataclasses.replace(agent, config=dataclasses.replace(agent.config, evaluation=greedy))
    evaluator = make_evaluator(agent, 11, num_lanes=1)
    steps: list[LaneStep] = []
    evaluator.begin_with([2])
    while evaluator.playing:
        evaluator.play(100, lambda step, _: steps.append(step))
    policy = agent57.load_policy(policy_dir, epsilon=0.0)
    policy.reset()
    for step in steps:
        action = policy.act(step.observations[0], float(step.extrinsic_rewards[0]))
        assert policy.intrinsic_reward == step.intrinsic_rewards[0]
        np.testing.assert_array_equal(policy.q, step.q[0])
        assert action == step.actions[0]
    assert any(step.intrinsic_rewards[0] > 0 for step in steps)


def test_plain_observations_are_taken_too(policy_dir: Path) -> None:
    policy = agent57.load_policy(policy_dir)
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    policy.reset()
    reward: Any = 0.0
    for _ in range(5):
        observation, reward, *_ = env.step(policy.act(observation, reward))


def readme_example() -> str:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    return example


def test_the_readmes_example_runs(policy_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = readme_example()
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    assert example.count('"runs/NAME/policy"') == 1
    exec(example.replace('"runs/NAME/policy"', repr(str(policy_dir))), {})
    score = float(capsys.readouterr().out)
    assert 5 <= score <= 500


def test_members_of_the_family_and_epsilon_can_be_chosen(policy_dir: Path) -> None:
    policy = agent57.load_policy(policy_dir)
    assert (policy.policy_index, policy.epsilon, policy.env_id) == (2, 0.01, "CartPole-v1")
    assert isinstance(policy, ExportedPolicy)
    assert policy.about["env_frames"] >= 1500
    other = agent57.load_policy(policy_dir, policy_index=0, epsilon=0.5)
    assert (other.policy_index, other.beta, other.epsilon) == (0, 0.0, 0.5)
    with pytest.raises(ValueError, match="policy_index"):
        agent57.load_policy(policy_dir, policy_index=9)


def test_missing_and_damaged_exports_are_refused(policy_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"launch\.py export"):
        agent57.load_policy(tmp_path)
    for name, content in ((CONFIG_FILE, b"{"), (WEIGHTS_FILE, b"garbage"), (CONFIG_FILE, b'{"format": 99}')):
        for copied in (CONFIG_FILE, WEIGHTS_FILE):
            (tmp_path / copied).write_bytes((policy_dir / copied).read_bytes())
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="cannot be loaded as a policy"):
            agent57.load_policy(tmp_path)


def test_observations_of_another_layout_are_refused(policy_dir: Path) -> None:
    policy = agent57.load_policy(policy_dir)
    with pytest.raises(ValueError, match="make_env"):
        policy.act(np.zeros(7, np.float32))


def test_export_says_where_it_cannot_write(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert launch.main(["export", str(run_dir), "--output", str(tmp_path / "file")]) == 2
    assert "--output" in capsys.readouterr().err


def test_evaluation_is_as_the_paper_says() -> None:
    """Agent57 appendix: epsilon, the evaluator's bandit, no-ops, thirty minutes."""
    config = TrainConfig()
    assert (config.evaluation.epsilon, config.evaluation.bandit_window, config.evaluation.bandit_epsilon) == (
        0.01, 3600, 0.01
    )  # fmt: skip
    assert EnvironmentConfig().noop_max == 30
    assert EnvironmentConfig().max_frames == 108_000
