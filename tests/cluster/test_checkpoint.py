"""Trees come back bit for bit; a checkpoint is whole, or it is not there."""

from __future__ import annotations

import errno
import json
import math
import os
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cluster.run import checkpoint as checkpoint_module
from cluster.run.checkpoint import FORMAT, MANIFEST, Checkpoints, frames_of, load_tree, save_tree
from cluster.run.errors import UserError


def assert_same(a: Any, b: Any) -> None:
    """Equal in value, type, dtype and bits."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for (key_a, x), (key_b, y) in zip(a.items(), b.items(), strict=True):
            assert type(key_a) is type(key_b)
            assert_same(x, y)
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8)) if a.numel() else True
    elif isinstance(a, np.ndarray | np.generic):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    elif isinstance(a, float):
        assert repr(a) == repr(b)
    else:
        assert a == b


def round_trip(tree: Any, directory: Path) -> Any:
    save_tree(directory, "tree", tree)
    return load_tree(directory, "tree")


def test_every_kind_of_leaf_comes_back_exactly(tmp_path: Path) -> None:
    tree = {
        "numpy": [np.arange(6, dtype=np.int16).reshape(2, 3), np.array(2.5), np.zeros((0, 4), np.bool_)],
        "scalars of numpy": [np.float64(0.1), np.int64(-3), np.bool_(True)],
        "tensors": [
            torch.randn(3, 4).to(torch.bfloat16),
            torch.tensor(1.5, dtype=torch.bfloat16),
            torch.randn(5).to(torch.float8_e4m3fn),
            torch.tensor(7),
            torch.tensor([True, False]),
            torch.randn(2, 3, 4).transpose(0, 2),
            torch.tensor([float("nan"), float("-inf"), -0.0]),
            torch.zeros(0, 3),
            torch.randn(2, dtype=torch.complex64),
        ],
        "ints": [0, -1, 2**63 - 1, 2**63, -(2**127) - 5, 10**5000],
        "floats": [0.1, -0.0, math.inf, -math.inf, math.nan, 5e-324],
        "others": [None, True, False, "", 'quote " \n \ud800 ü', (), (0.9, (0.999, None)), [], {}],
        "int keys": {3: {"step": 1}, 0: [], -(2**70): "far", "3": "not 3"},
        "looks like an encoding": {"tuple": [1], "array": "a0"},
    }
    assert_same(round_trip(tree, tmp_path), tree)


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(tree=TREES)
def test_any_nesting_comes_back(tree: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert_same(round_trip(tree, tmp_path_factory.mktemp("tree")), tree)


def test_a_resumed_optimizer_makes_the_same_step(tmp_path: Path) -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        network = nn.Linear(3, 2)
        return network, torch.optim.Adam(network.parameters(), lr=0.1)

    def step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        network(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()

    network, optimizer = build()
    step(network, optimizer)
    save_tree(tmp_path, "learner", {"network": network.state_dict(), "optimizer": optimizer.state_dict()})
    loaded = load_tree(tmp_path, "learner")
    assert_same(loaded["optimizer"], optimizer.state_dict())
    resumed, resumed_optimizer = build()
    resumed.load_state_dict(loaded["network"])
    resumed_optimizer.load_state_dict(loaded["optimizer"])
    step(network, optimizer)
    step(resumed, resumed_optimizer)
    assert torch.equal(network.weight, resumed.weight)


def test_random_generators_continue(tmp_path: Path) -> None:
    numpy_generator = np.random.default_rng(5)
    numpy_generator.random(3)
    torch_generator = torch.Generator().manual_seed(5)
    state = {"numpy": numpy_generator.bit_generator.state, "torch": torch_generator.get_state()}
    loaded = round_trip(state, tmp_path)
    again = np.random.default_rng()
    again.bit_generator.state = loaded["numpy"]
    assert again.random() == numpy_generator.random()
    torch_again = torch.Generator()
    torch_again.set_state(loaded["torch"])
    assert torch.equal(torch.rand(4, generator=torch_again), torch.rand(4, generator=torch_generator))


def test_subclasses_of_dict_and_parameters_are_plain_on_return(tmp_path: Path) -> None:
    loaded = round_trip(OrderedDict(weight=nn.Parameter(torch.ones(2))), tmp_path)
    assert type(loaded) is dict
    assert type(loaded["weight"]) is torch.Tensor
    assert not loaded["weight"].requires_grad


@pytest.mark.gpu
def test_tensors_of_a_gpu_come_back_on_the_cpu(tmp_path: Path) -> None:
    assert_same(round_trip([torch.arange(3, device="cuda")], tmp_path), [torch.arange(3)])


@pytest.mark.parametrize(
    "leaf",
    [deque(), object(), b"bytes", {1, 2}, np.array([None]), {1.5: 0}, {True: 0}, torch.zeros(2, 2).to_sparse()],
    ids=lambda leaf: type(leaf).__name__,
)
def test_anything_else_is_refused_by_its_place(leaf: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"tree\['bandits'\]\[1\] (is|has)"):
        save_tree(tmp_path, "tree", {"bandits": [0, leaf]})


@pytest.mark.parametrize(
    "damage", ["no json", "cut json", "cut npz", "empty npz", "pickled npz", "unknown kind", "format"]
)
def test_unreadable_tree_is_one_clear_sentence(damage: str, tmp_path: Path) -> None:
    save_tree(tmp_path, "tree", {"x": np.arange(1000)})
    structure, arrays = tmp_path / "tree.json", tmp_path / "tree.npz"
    if damage == "no json":
        structure.unlink()
    elif damage == "cut json":
        structure.write_text(structure.read_text()[:-3])
    elif damage == "cut npz":
        arrays.write_bytes(arrays.read_bytes()[:500])
    elif damage == "empty npz":
        arrays.write_bytes(b"")
    elif damage == "pickled npz":
        np.savez(arrays, a0=np.array([{"code": "runs"}], dtype=object))
    elif damage == "unknown kind":
        structure.write_text(json.dumps({"format": FORMAT, "tree": {}}))
    else:
        structure.write_text(json.dumps({"format": 99, "tree": None}))
    with pytest.raises(UserError, match=r"tree\.json") as raised:
        load_tree(tmp_path, "tree")
    assert "\n" not in str(raised.value)


@contextmanager
def writing(checkpoints: Checkpoints, env_frames: int) -> Iterator[Path]:
    """A folder to fill, sealed at a clean exit and abandoned at any other."""
    temporary = checkpoints.begin(env_frames)
    try:
        yield temporary
        checkpoints.seal(temporary, env_frames)
    except BaseException:
        checkpoints.abandon(temporary)
        raise


def write(checkpoints: Checkpoints, env_frames: int, content: bytes = b"weights") -> None:
    with writing(checkpoints, env_frames) as directory:
        (directory / "learner.bin").write_bytes(content * 1000)
        (directory / "replay").mkdir()
        (directory / "replay" / "shard-0.bin").write_bytes(content)


def names(checkpoints: Checkpoints) -> list[str]:
    """Everything in the directory, hidden leftovers too."""
    return sorted(path.name for path in checkpoints.directory.iterdir())


def refuse_damage(message: str) -> None:
    raise AssertionError(message)


def test_the_newest_is_found_and_only_the_last_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest(refuse_damage) is None
    for env_frames in (900, 1000, 20_000):
        write(checkpoints, env_frames)
    assert names(checkpoints) == ["000000001000", "000000020000"]
    assert checkpoints.latest(refuse_damage) == checkpoints.all()[-1] == tmp_path / "checkpoints" / "000000020000"


@pytest.mark.parametrize(
    "damage", ["bit flip", "bit flip below", "truncated", "missing file", "no manifest", "torn manifest"]
)
def test_a_damaged_checkpoint_is_passed_over_for_the_previous_one(damage: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    write(checkpoints, 1000)
    write(checkpoints, 2000)
    newest = checkpoints.all()[-1]
    file = newest / ("replay/shard-0.bin" if damage == "bit flip below" else "learner.bin")
    content = bytearray(file.read_bytes())
    if damage.startswith("bit flip"):
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "truncated":
        file.write_bytes(content[:-1])
    elif damage == "missing file":
        file.unlink()
    elif damage == "no manifest":
        (newest / MANIFEST).unlink()
    else:
        (newest / MANIFEST).write_text((newest / MANIFEST).read_text()[:20])
    messages: list[str] = []
    assert checkpoints.latest(messages.append) == checkpoints.all()[0]
    assert len(messages) == 1
    assert "000000002000" in messages[0]


def test_after_resuming_from_an_older_one_those_beyond_it_make_room(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    write(checkpoints, 1000)
    write(checkpoints, 9000)
    (checkpoints.all()[-1] / "learner.bin").unlink()
    write(checkpoints, 1500)
    assert names(checkpoints) == ["000000001000", "000000001500"]
    assert checkpoints.latest(refuse_damage) == checkpoints.all()[-1]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_crash_while_writing_leaves_the_old_checkpoints_and_nothing_else(
    error: BaseException, tmp_path: Path
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    write(checkpoints, 1000)

    def crash() -> None:
        with writing(checkpoints, 2000) as directory:
            (directory / "learner.bin").write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        crash()
    assert names(checkpoints) == ["000000001000"]
    checkpoints.latest_or_error(refuse_damage)


def test_a_full_disk_while_sealing_leaves_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    write(checkpoints, 1000)

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cluster.run.checkpoint.sync", full)
    with pytest.raises(OSError, match="No space"):
        write(checkpoints, 2000)
    assert names(checkpoints) == ["000000001000"]


def test_leftovers_of_killed_processes_are_never_loaded_and_go_at_the_next_writing(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    write(checkpoints, 1000)
    leftover = checkpoints.directory / ".tmp-000000009000-01234abc"
    leftover.mkdir()
    (leftover / MANIFEST).write_text("{}")
    assert checkpoints.latest(refuse_damage) == checkpoints.all()[0]
    write(checkpoints, 2000)
    assert names(checkpoints) == ["000000001000", "000000002000"]


def test_the_same_frames_twice_replace_the_first(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    write(checkpoints, 1000, b"old")
    write(checkpoints, 1000, b"new")
    assert names(checkpoints) == ["000000001000"]
    path = checkpoints.latest_or_error(refuse_damage)
    assert (path / "replay" / "shard-0.bin").read_bytes() == b"new"


def test_a_kill_in_the_middle_of_a_replacement_loses_nothing(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    write(checkpoints, 1000)
    checkpoints.all()[0].rename(checkpoints.directory / ".replaced-000000001000")
    reader, owner = Checkpoints(tmp_path, keep=1), Checkpoints(tmp_path, keep=1)
    found = reader.latest_or_error(refuse_damage)
    assert found.exists()
    assert frames_of(found) == 1000
    owner.mend()
    assert owner.latest(refuse_damage) == checkpoints.directory / "000000001000"


@pytest.mark.parametrize("name", ["000000001000", "000000009000", ".replaced-mine", ".tmp-mine", "20261126"])
def test_what_the_run_did_not_write_stays(name: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    precious = checkpoints.directory / name / "thesis.pt"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    other = Checkpoints(tmp_path, keep=9)
    write(other, 500)
    for env_frames in (1000, 2000):
        write(checkpoints, env_frames)
    assert [frames_of(path) for path in checkpoints.all()] == [500, 2000]
    assert [path.read_text() for path in checkpoints.directory.glob("*/thesis.pt")] == ["precious"]
    resumed = Checkpoints(tmp_path, keep=1)
    resumed.go_on_from(checkpoints.all()[-1])
    write(resumed, 3000)
    assert [frames_of(path) for path in checkpoints.all()] == [500, 3000]


def test_a_reader_whose_checkpoint_is_removed_takes_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    write(checkpoints, 1000)
    measure = checkpoint_module._measure

    def overtaken(path: Path) -> tuple[int, int]:
        if "000000001000" in str(path):
            write(checkpoints, 2000)
        return measure(path)

    monkeypatch.setattr(checkpoint_module, "_measure", overtaken)
    assert frames_of(Checkpoints(tmp_path, 1).latest_or_error(refuse_damage)) == 2000


def test_a_failed_replacement_brings_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    write(checkpoints, 1000, b"old")
    rename = Path.rename

    def fail_for_the_new_one(source: Path, target: Path) -> Path:
        if source.name.startswith(".tmp-"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(OSError, match="Input/output"):
        write(checkpoints, 1000, b"new")
    assert names(checkpoints) == ["000000001000"]
    assert (checkpoints.latest_or_error(refuse_damage) / "replay" / "shard-0.bin").read_bytes() == b"old"


def test_a_run_without_a_usable_checkpoint_says_so(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    with pytest.raises(UserError, match="no checkpoint"):
        checkpoints.latest_or_error(refuse_damage)
    write(checkpoints, 1000)
    (checkpoints.all()[0] / "learner.bin").unlink()
    with pytest.raises(UserError, match="only damaged checkpoints"):
        checkpoints.latest_or_error(lambda message: None)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("harm", ["fifo", "device", "other format", "outside", "deep", "not a dict", "no files"])
def test_a_manifest_made_to_harm_is_damage_like_any_other(harm: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    write(checkpoints, 1000)
    write(checkpoints, 2000)
    newest = checkpoints.all()[-1]
    path = newest / MANIFEST
    manifest = json.loads(path.read_text())
    if harm == "fifo":
        os.mkfifo(newest / "pipe")
        manifest["files"]["pipe"] = {"bytes": 0, "crc32": 0}
    elif harm == "device":
        (newest / "zeros").symlink_to("/dev/zero")
        manifest["files"]["zeros"] = {"bytes": 0, "crc32": 0}
    elif harm == "other format":
        manifest["format"] = 99
    elif harm == "outside":
        manifest["files"]["../../../etc/hostname"] = {"bytes": 1, "crc32": 0}
    elif harm == "no files":
        del manifest["files"]
    text = {"deep": "[" * 200_000, "not a dict": "3"}.get(harm, json.dumps(manifest))
    path.write_text(text)
    told: list[str] = []
    assert checkpoints.latest(told.append) == checkpoints.all()[0]
    assert len(told) == 1
    assert "is damaged" in told[0]
