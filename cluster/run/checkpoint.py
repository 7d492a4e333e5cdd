"""Checkpoints that are whole or absent, and trees of state that load without running anyone's code.

`save_tree` and `load_tree` keep nested state as JSON plus raw arrays (no pickle). `Checkpoints` gives its writers a
temporary directory, seals it with a manifest of sizes and checksums, and renames it into place; on resume it hands
back the newest directory whose files still match.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from cluster.run.errors import UserError, one_line
from replay.plain_files import load_arrays, open_plain, read_json
from replay.whole_files import ChecksummedFile, Written, sync

MANIFEST = "manifest.json"
FORMAT = 2
_TEMPORARY, _REPLACED, _SET_ASIDE = ".tmp-", ".replaced-", ".set-aside-"
_NAME = re.compile(r"[0-9]{12,}")
_LEFTOVER = re.compile(r"\.tmp-[0-9]{12,}-[0-9a-f]{8}|\.replaced-[0-9]{12,}")
_HEAD_BYTES = 200
"""Of a manifest; its run is among them."""
_CHUNK_BYTES = 1 << 20
# Python reads integers of any size from JSON, but other readers do not, and str(int) refuses very long ones.
_LARGEST_JSON_INT = 2**63 - 1
# NumPy lacks bfloat16 and the 8-bit floats: their bits travel as integers of the same width.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def save_tree(directory: Path, name: str, tree: Any) -> dict[str, Written]:
    """Write ``tree`` as ``{name}.json`` (structure) and ``{name}.npz`` (arrays, uncompressed); returns both.

    A tree is made of dicts (keys str or int), lists, tuples, None, bool, int, float, str, numpy arrays and numpy
    scalars, and torch tensors on any device. TypeError names the place of anything else. Subclasses of dict come
    back as dict, parameters as tensors without gradient, tensors on the CPU.
    """
    arrays: dict[str, Any] = {}
    structure = _encode(tree, "tree", arrays)
    text = json.dumps({"format": FORMAT, "tree": structure}, allow_nan=False)
    with ChecksummedFile(directory / f"{name}.json") as file:
        file.write(text.encode("ascii"))
    with ChecksummedFile(directory / f"{name}.npz") as packed:
        np.savez(packed, **arrays)
    return {f"{name}.json": file.written, f"{name}.npz": packed.written}


def load_tree(directory: Path, name: str) -> Any:
    """The tree that `save_tree` wrote, equal bit for bit; UserError if its files are missing or not readable."""
    try:
        document = read_json(directory / f"{name}.json")
        if document["format"] != FORMAT:
            raise UserError(
                f"{directory / name}.json has format {document['format']} but this version reads format {FORMAT}: "
                "resume with the version of the code that wrote it."
            )
        return _decode(document["tree"], load_arrays(directory / f"{name}.npz"))
    except UserError:
        raise
    except Exception as error:  # the parsers fail in as many ways as a file can be damaged
        raise UserError(
            f"{directory / name}.json/.npz cannot be read ({error}): remove {directory} to resume from an older "
            "checkpoint."
        ) from error


@contextmanager
def restoring(directory: Path) -> Iterator[None]:
    """Turns whatever the contents of a checkpoint do to those who restore from them into one sentence (UserError)."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{directory} cannot be restored ({one_line(error)}): remove it to resume from an older checkpoint, or "
            "start a new run."
        ) from error


def _encode(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """``value`` in JSON terms: lists and plain scalars as they are, all else as an object of one key, its kind."""
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is int:
        return value if abs(value) <= _LARGEST_JSON_INT else {"int": hex(value)}
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, dict):
        return _encode_dict(value, path, arrays)
    if type(value) in (list, tuple):
        items = [_encode(item, f"{path}[{index}]", arrays) for index, item in enumerate(value)]
        return items if type(value) is list else {"tuple": items}
    if isinstance(value, torch.Tensor):
        return _encode_tensor(value, path, arrays)
    if (type(value) is np.ndarray or isinstance(value, np.generic)) and value.dtype.kind in "biufcmMSU":
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {kind: _keep(np.asarray(value), arrays)}
    described = f"{type(value).__name__} of {value.dtype}" if hasattr(value, "dtype") else type(value).__name__
    raise TypeError(f"{path} is a {described}, which a checkpoint cannot hold")


def _encode_dict(value: dict[Any, Any], path: str, arrays: dict[str, np.ndarray]) -> Any:
    for key in value:
        if type(key) not in (str, int):
            raise TypeError(f"{path} has the key {key!r}: a checkpoint holds only str and int keys")
    encoded = {key: _encode(item, f"{path}[{key!r}]", arrays) for key, item in value.items()}
    if all(type(key) is str for key in value):
        return {"dict": encoded}
    # JSON would turn int keys (an optimizer's state) into strings.
    return {"items": [[_encode(key, path, arrays), item] for key, item in encoded.items()]}


def _encode_tensor(value: torch.Tensor, path: str, arrays: dict[str, np.ndarray]) -> Any:
    if value.layout is not torch.strided or value.is_quantized:
        raise TypeError(f"{path} is a sparse or quantized tensor, which a checkpoint cannot hold")
    tensor = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    try:
        array = tensor.numpy()
    except TypeError:
        array = tensor.view(_BITS[tensor.element_size()]).numpy()
    return {"tensor": _keep(array, arrays), "dtype": str(tensor.dtype).removeprefix("torch.")}


def _keep(array: np.ndarray, arrays: dict[str, np.ndarray]) -> str:
    name = f"a{len(arrays)}"
    arrays[name] = array
    return name


def _decode(value: Any, arrays: Any) -> Any:
    """What `_encode` was given, from its JSON terms and the opened npz file."""
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    kind: str
    content: Any
    kind, content = next(iter(value.items()), ("nothing", None))
    if kind == "dict":
        return {key: _decode(item, arrays) for key, item in content.items()}
    if kind == "items":
        return {_decode(key, arrays): _decode(item, arrays) for key, item in content}
    if kind == "tuple":
        return tuple(_decode(item, arrays) for item in content)
    if kind == "int":
        return int(content, 16)
    if kind == "float":
        return float(content)
    if kind == "array":
        return arrays[content]
    if kind == "scalar":
        return arrays[content][()]
    if kind == "tensor":
        dtype = getattr(torch, value["dtype"])
        tensor = torch.from_numpy(arrays[content])
        return tensor if tensor.dtype == dtype else tensor.view(dtype)
    raise ValueError(f"unknown kind {kind!r}")


class Checkpoints:
    """The checkpoints of one run, ``run_dir/checkpoints/NNNNNNNNNNNN`` named by environment frames.

    One process, which holds the run's lock, calls `mend`, `go_on_from`, `begin` and `seal`; others may read meanwhile.
    Each manifest names its run, and only what this run wrote is ever removed or replaced.
    """

    def __init__(self, run_dir: Path, keep: int) -> None:
        """``keep``: how many of the newest survive each new one; at least 1."""
        if keep < 1:
            raise ValueError("keep must be at least 1")
        self.directory = Path(run_dir) / "checkpoints"
        self.keep = keep
        self._run = uuid.uuid4().hex

    def all(self) -> list[Path]:
        """Every checkpoint in place, oldest first; not verified."""
        return [path for path in self._named() if (path / MANIFEST).exists()]

    def _named(self) -> list[Path]:
        """Whatever has the name of a checkpoint, oldest first; one whose replacement was cut short counts too."""
        found = {}
        for path in sorted(self.directory.iterdir()) if self.directory.is_dir() else ():
            if _NAME.fullmatch(path.name.removeprefix(_REPLACED)):
                # "." comes before digits: the one in place wins.
                found[frames_of(path)] = path
        return [found[frames] for frames in sorted(found)]

    def in_the_way(self) -> list[Path]:
        """What has the place of a checkpoint or of their folder and is none."""
        if self.directory.exists() and not self.directory.is_dir():
            return [self.directory]
        return [path for path in self._named() if not (path / MANIFEST).exists()]

    def go_on_from(self, checkpoint: Path) -> None:
        """Take ``checkpoint`` and its run's others for our own."""
        run = read_json(checkpoint / MANIFEST).get("run")
        if isinstance(run, str) and re.fullmatch("[0-9a-f]{32}", run):
            self._run = run

    def begin(self, env_frames: int) -> Path:
        """A temporary directory to fill, by this or other processes, and then to `seal` or to `abandon`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._clean_up()
        temporary = self._temporary(env_frames)
        temporary.mkdir()
        return temporary

    def abandon(self, temporary: Path) -> None:
        """Remove it; the checkpoints that were there still are."""
        shutil.rmtree(temporary, ignore_errors=True)
        self.mend()

    def seal(self, temporary: Path, env_frames: int, written: Mapping[str, Written] = MappingProxyType({})) -> None:
        """Make ``temporary`` the checkpoint at ``env_frames``; on any exception, such as a full disk, `abandon` it.

        ``written`` are files, by name, that are on the disk already; what is in others is read back. A checkpoint of
        the same ``env_frames`` is replaced. Those beyond it go: the run was resumed from before them, because they were
        damaged or by choice.
        """
        _write_manifest(temporary, self._run, env_frames, written)
        self._put_in_place(temporary, self.directory / f"{env_frames:012d}")
        ours = [path for path in self.all() if self._is_ours(path)]
        beyond = [path for path in ours if frames_of(path) > env_frames]
        older = [path for path in ours if path not in beyond][: -self.keep]
        for path in beyond + older:
            self._remove(path)

    def latest(self, on_damaged: Callable[[str], None], contents: bool = True) -> Path | None:
        """The newest checkpoint whose files match its manifest, or None.

        ``on_damaged`` is told, in one sentence each, of the newer ones passed over. Unless ``contents`` are asked for,
        sizes must do: they say whether all is there, at once, and whoever loads a file finds the rest.
        """
        passed_over = set()
        while True:
            named = self._named()
            for path in reversed(named):
                if path in passed_over:
                    continue
                damage = _find_damage(path, contents)
                if damage is None:
                    return path
                if self._named() != named:
                    break  # It may be gone because a newer one has come.
                passed_over.add(path)
                on_damaged(f"Checkpoint {path} is damaged ({damage}) and was passed over.")
            else:
                return None

    def latest_or_error(self, on_damaged: Callable[[str], None]) -> Path:
        """Like `latest`; UserError if the run has no usable checkpoint."""
        path = self.latest(on_damaged)
        if path is None and self._named():
            raise UserError(f"{self.directory} holds only damaged checkpoints: resume another run, or start a new one.")
        if path is None:
            run_dir = self.directory.parent
            raise UserError(
                f"{self.directory} holds no checkpoint: start the run again with --run-dir {run_dir} and its flags."
            )
        return path

    def mend(self) -> None:
        """Undo a replacement that was cut short."""
        for aside in self.directory.glob(f"{_REPLACED}*"):
            target = self.directory / aside.name.removeprefix(_REPLACED)
            if _LEFTOVER.fullmatch(aside.name) and not target.exists():
                aside.rename(target)

    def _temporary(self, env_frames: int) -> Path:
        return self.directory / f"{_TEMPORARY}{env_frames:012d}-{uuid.uuid4().hex[:8]}"

    def _put_in_place(self, temporary: Path, target: Path) -> None:
        # A directory cannot be renamed over a full one. The old one steps aside under a name that `mend` and readers
        # recognise, so that a kill between the two renames loses nothing.
        aside = self.directory / f"{_REPLACED}{target.name}"
        if target.exists():
            ours = self._is_ours(target)
            target.rename(aside if ours else self.directory / f"{_SET_ASIDE}{target.name}-{uuid.uuid4().hex[:8]}")
        temporary.rename(target)
        sync(self.directory)
        shutil.rmtree(aside, ignore_errors=True)

    def _is_ours(self, path: Path) -> bool:
        """Whether this run wrote the checkpoint ``path``, which may be damaged."""
        try:
            with open_plain(path / MANIFEST) as file:
                return self._run.encode() in file.read(_HEAD_BYTES)
        except OSError:
            return False

    def _remove(self, path: Path) -> None:
        """Away at once for readers, under a name that the next owner cleans up if this process is killed meanwhile."""
        gone = self._temporary(frames_of(path))
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _clean_up(self) -> None:
        """Remove what killed processes left behind."""
        self.mend()
        for leftover in self.directory.iterdir():
            if _LEFTOVER.fullmatch(leftover.name):
                shutil.rmtree(leftover, ignore_errors=True)


def frames_of(checkpoint: Path) -> int:
    """Environment frames at which ``checkpoint`` was made."""
    return int(checkpoint.name.removeprefix(_REPLACED))


def _write_manifest(
    directory: Path, run: str, env_frames: int, written: Mapping[str, Written] = MappingProxyType({})
) -> None:
    """Make every file durable and list its size and checksum; the manifest itself comes last."""
    files = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = path.relative_to(directory).as_posix()
        if name in written:
            size, checksum = written[name].bytes, written[name].crc32
            if path.stat().st_size != size:
                raise OSError(f"{name} has {path.stat().st_size} bytes where {size} were written")
        else:
            size, checksum = _measure(path)
            sync(path)
        files[name] = {"bytes": size, "crc32": checksum}
    manifest = directory / MANIFEST
    manifest.write_text(json.dumps({"format": FORMAT, "run": run, "env_frames": env_frames, "files": files}, indent=1))
    sync(manifest)
    for folder in (directory, *(path for path in directory.rglob("*") if path.is_dir())):
        sync(folder)


def _find_damage(directory: Path, contents: bool = True) -> str | None:
    """What is wrong with a checkpoint, in a few words, or None if all its files match the manifest."""
    try:
        manifest = read_json(directory / MANIFEST)
        if manifest["format"] != FORMAT:
            return f"its format is {manifest['format']}, this version reads {FORMAT}"
        if manifest["env_frames"] != frames_of(directory):
            return f"its manifest speaks of {manifest['env_frames']} frames"
        files = [(name, entry["bytes"], entry["crc32"]) for name, entry in manifest["files"].items()]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"its manifest cannot be read: {error}"
    for name, size, checksum in files:
        if ".." in Path(name).parts or Path(name).is_absolute():
            return f"its manifest names {name}, which is no file of its own"
        try:
            if contents:
                found, actual = _measure(directory / name)
            else:
                found, actual = (directory / name).stat().st_size, checksum
        except (OSError, ValueError) as error:
            return f"{name} cannot be read: {error}"
        if found != size:
            return f"{name} has {found} bytes instead of {size}"
        if actual != checksum:
            return f"the checksum of {name} does not match"
    return None


def _measure(path: Path) -> tuple[int, int]:
    """(bytes, CRC-32) of a file of any size, read a piece at a time."""
    size = checksum = 0
    with open_plain(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            size += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
    return size, checksum
