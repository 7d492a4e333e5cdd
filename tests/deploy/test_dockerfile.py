"""deploy/Dockerfile, without Docker: what it copies exists, and it installs what the README says."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.deploy.commands import DEPLOY, ROOT

INSTRUCTIONS = {"ARG", "FROM", "RUN", "USER", "WORKDIR", "ENV", "COPY", "CMD"}
COPIED_FOR_BENCHMARKS = {"benchmarks", "deploy/train_or_resume.sh"}


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, the rest) in order; comments dropped, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines()]


def dockerfile_problems(text: str) -> list[str]:
    found: list[str] = []
    steps = instructions(text)
    if "&" in "".join(name for name, _ in steps) or steps[0][0] != "ARG" or steps[1][0] != "FROM":
        found.append("an image begins with FROM")
    found += [f"{name} is no instruction that is used here" for name, _ in steps if name not in INSTRUCTIONS]
    copied: set[str] = set()
    for arguments in (rest for name, rest in steps if name == "COPY"):
        *flags, target = arguments.split()
        sources = [word for word in flags if not word.startswith("--")]
        found += [f"COPY of {source}, which does not exist" for source in sources if not (ROOT / source).exists()]
        found += [f"COPY of a folder {source} to {target}" for source in sources if _differ(source, target)]
        found += [f"unknown flag {word}" for word in flags if word.startswith("--") and "--chown=" not in word]
        copied |= set(sources)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {package.split(".")[0] for package in project["tool"]["setuptools"]["packages"]}
    modules = {f"{module}.py" for module in project["tool"]["setuptools"]["py-modules"]}
    wanted = packages | modules | {"pyproject.toml", project["project"]["readme"], "LICENSE"} | COPIED_FOR_BENCHMARKS
    found += [f"{name} is not copied" for name in sorted(wanted - copied)]
    runs = [rest for name, rest in steps if name == "RUN"]
    if runs[-1] != readme_install():
        found.append(f"it installs with '{runs[-1]}', the README with '{readme_install()}'")
    (torch,) = [each for each in project["project"]["dependencies"] if each.startswith("torch")]
    if not any(f'.venv/bin/pip install "{torch}" --index-url "$TORCH_INDEX"' in run for run in runs):
        found.append(f"torch is not installed as {torch}")
    names = re.findall(r"\$\{?(\w+)", text)
    known = set(re.findall(r"^ARG (\w+)", text, re.MULTILINE)) | {"PATH"}
    found += [f"${name} is not declared" for name in names if name not in known]
    environment = " ".join(rest for name, rest in steps if name == "ENV")
    found += ["token authentication is not asked for"] * ("RAY_AUTH_MODE=token" not in environment.split())
    users = [rest for name, rest in steps if name == "USER"]
    found += ["it runs as root"] * (not users or users[-1] in ("root", "0"))
    return found


def _differ(source: str, target: str) -> bool:
    """A folder's *contents* are copied, so it must be named again as the target."""
    return (ROOT / source).is_dir() and source != target.rstrip("/")


def readme_install() -> str:
    """The installation, out of the README's first command."""
    line = next(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("python3 -m venv"))
    return " && ".join(line.split(" && ")[:2])


def test_it_builds_what_the_readme_installs() -> None:
    assert dockerfile_problems((DEPLOY / "Dockerfile").read_text()) == []


def test_the_builder_is_sent_what_is_copied() -> None:
    """.dockerignore drops everything but what it names."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    for name, arguments in instructions((DEPLOY / "Dockerfile").read_text()):
        if name == "COPY":
            for source in [word for word in arguments.split()[:-1] if not word.startswith("--")]:
                assert source.split("/")[0] in sent, source
    assert all((ROOT / path).exists() for path in sent)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("COPY --chown=agent57:agent57 actors actors", "COPY --chown=agent57:agent57 actors actor"),
        ("COPY --chown=agent57:agent57 replay replay\n", ""),
        ("launch.py ./", "lanuch.py ./"),
        ("--chown=agent57:agent57 learner", "--chwon=agent57:agent57 learner"),
        ("pip install -e .", "pip install ."),
        ("python3 -m venv .venv && .venv/bin/pip install -e", "python3 -m venv venv && venv/bin/pip install -e"),
        ("torch>=2.10,<2.14", "torch>=2.1,<2.14"),
        ("$TORCH_INDEX", "$TORCH_INDX"),
        ("ARG TORCH_INDEX", "AGR TORCH_INDEX"),
        ("WORKDIR", "WORKDIRR"),
        ("USER agent57\n", ""),
        ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled"),
        ("deploy/train_or_resume.sh deploy/train_or_resume.sh", "deploy/train.sh deploy/train.sh"),
    ],
)
def test_mistakes_are_found(old: str, new: str) -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert old in text
    assert dockerfile_problems(text.replace(old, new)) != []
