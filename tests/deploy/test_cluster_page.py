"""The launch commands of docs/cluster.md: options and files that exist, and every size that the page speaks of."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.deploy.commands import ROOT, WRAPPER, ray_problems, train_problems, wrapped_train_problems
from tests.deploy.test_scripts import SBATCH_OPTIONS

PAGE = ROOT / "docs" / "cluster.md"
SECTIONS = {
    "One machine": "launch.py train",
    "A Ray cluster that you start yourself": WRAPPER,
    "AWS": WRAPPER,
    "SLURM": "deploy/slurm.sh",
}


def command_lines(text: str) -> list[str]:
    """Commands in the page's blocks, continued lines joined, remarks dropped."""
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    return [line.split(" # ")[0].strip() for line in blocks.splitlines()]


def command_problems(command: str) -> list[str]:
    words = shlex.split(command)
    found = [f"{word} does not exist" for word in words if word.startswith("deploy/") and not (ROOT / word).exists()]
    if words[0] == "ray":
        found += ray_problems(words[1:])
        if words[1] == "exec":
            found += wrapped_train_problems(words[3])
    elif WRAPPER in command:
        found += wrapped_train_problems(command)
    elif "launch.py" in words:
        found += train_problems(words[words.index("launch.py") + 2 :])
    elif words[0] == "sbatch":
        script = words.index("deploy/slurm.sh")
        given = [word.removeprefix("--").split("=")[0] for word in words[1:script]]
        found += [f"sbatch has no option {name}" for name in given if name not in SBATCH_OPTIONS]
        found += train_problems(words[script + 2 :])
    return found


def lanes_of(command: str) -> int:
    numbers = dict(re.findall(r"--cluster\.(num-workers|lanes-per-worker) (\d+)", command))
    return int(numbers["num-workers"]) * int(numbers["lanes-per-worker"])


def test_every_command_is_sound() -> None:
    commands = command_lines(PAGE.read_text())
    assert len(commands) > 15
    assert {command: problems for command in commands if (problems := command_problems(command))} == {}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_platform_has_a_command_for_each_size(section: str) -> None:
    text = PAGE.read_text().split(f"### {section}\n")[1].split("\n#")[0]
    commands = [command for command in command_lines(text) if SECTIONS[section] in command]
    assert {1, 32, 512} <= {lanes_of(command) for command in commands}


def test_the_job_has_flags_for_each_size() -> None:
    text = PAGE.read_text().split("### Kubernetes\n")[1].split("\n#")[0]
    (row,) = re.findall(r"^\| flags in `entrypoint` \|(.*)\|$", text, re.MULTILINE)
    assert [lanes_of(cell) for cell in row.split("|")] == [1, 32, 512]


@pytest.mark.parametrize(
    "command",
    [
        "ray up deploy/ray-asw.yaml",
        "ray start --haed",
        'ray exec deploy/ray-aws.yaml "cd /app && bash deploy/train_or_resume.sh runs/pong --cluster.adress auto"',
        "bash deploy/train_or_resume.sh --preset paper",
        "python launch.py train --preset papre",
        "sbatch --node=3 deploy/slurm.sh runs/pong",
        "sbatch deploy/slurm.sh runs/pong --cluster.num-worker 3",
    ],
)
def test_mistakes_are_found(command: str) -> None:
    assert command_problems(command) != []
