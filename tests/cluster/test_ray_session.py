"""Addresses of clusters that cannot be joined: one sentence, exit code 2, within seconds."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import pytest

from launch import main

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:PORT", "Nobody answers at cluster.address"),
        ("ray://10.0.0.1:10001", "start training on a node of the cluster, or as a Ray job"),
        ("10.0.0.1", "is not host:port"),
        ("head:seven", "Nobody answers at cluster.address head:seven"),
    ],
)
def test_a_cluster_that_is_not_there(
    address: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = address.replace("PORT", str(closed.getsockname()[1]))
    run_dir = tmp_path / "run"
    flags = ["--preset", "smoke", "--env", "tests.fakes:Chain-v0", "--run-dir", str(run_dir)]
    assert main(["train", *flags, "--cluster.address", address]) == 2
    assert reason in capsys.readouterr().err
    assert not run_dir.exists()


def test_a_ray_that_does_not_come_up_is_one_sentence_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_slow(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen because ...")

    monkeypatch.setattr("ray.init", too_slow)
    # Short, or it is refused for the sake of Ray's sockets.
    short = Path(tempfile.mkdtemp(prefix="a57t-", dir="/tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    flags = ["--preset", "smoke", "--env", "tests.fakes:Chain-v0", "--run-dir", str(tmp_path / "run")]
    assert main(["train", *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: Ray could not start (The current node timed out during startup.)")
    assert list(short.iterdir()) == []
    short.rmdir()
