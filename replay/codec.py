"""One sequence as one compressed blob, and back: what travels from actor to replay to learner.

Frames of one episode resemble each other, so zstd at its fastest level makes them tens of times smaller: the
paper's replay then fits in a few GB of memory. Actors' sequences are encoded on their way to a replay shard,
which never looks inside; the learner's prefetch threads decode whole batches.

Layout, little-endian: header | observation shape | per-step fields in the order of their table, each in its stored
form | recurrent state | frames (zstd) | CRC-32 of all that precedes it.
"""

from __future__ import annotations

import math
import struct
import threading
import zlib
from concurrent.futures import Executor
from dataclasses import replace

import numpy as np
import zstandard

from agent57.structures import (
    NO_ACTION,
    STEP_FIELDS,
    Sequence,
    SequenceBatch,
    SequenceSpec,
    StepField,
    fill_column,
    padded_batch,
)

_MAGIC = b"A57S"
_VERSION = 1
_HEADER = struct.Struct("<4sBBBBIiI")  # magic, version, dtype, terminated, ndim, n, policy index, LSTM width
_CHECKSUM = struct.Struct("<I")
_DTYPES = ("uint8", "float32")
_STATE = np.dtype("<f4")
_CODES = {np.dtype(name): code for code, name in enumerate(_DTYPES)}

Blob = bytes | bytearray | memoryview | np.ndarray


class _ThreadZstd(threading.local):
    """Each thread's own zstd contexts, which threads must not share."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        if level not in self.compressors:
            self.compressors[level] = zstandard.ZstdCompressor(level=level)
        return self.compressors[level]


_zstd = _ThreadZstd()


def encode_sequence(sequence: Sequence, level: int = 1) -> bytes:
    """``sequence`` as one self-contained blob, exact bit for bit; only its n+1 real steps are stored.

    ``level`` is zstd's. Raises ValueError for arrays of unequal length or wrong dtype, for a sequence without a
    transition, and for values that the stored forms do not keep.
    """
    _check_shapes(sequence)
    observations = np.ascontiguousarray(sequence.observations)
    header = _HEADER.pack(
        _MAGIC,
        _VERSION,
        _CODES[observations.dtype],
        bool(sequence.terminated),
        observations.ndim - 1,
        sequence.num_transitions,
        sequence.policy_index,
        sequence.recurrent_state.shape[-1],
    )
    shape = struct.pack(f"<{observations.ndim - 1}I", *observations.shape[1:])
    steps = [_stored(each, sequence) for each in STEP_FIELDS]
    state = sequence.recurrent_state.astype(_STATE).tobytes()
    frames = _zstd.compressor(level).compress(observations.data)
    body = b"".join((header, shape, *steps, state, frames))
    return body + _CHECKSUM.pack(zlib.crc32(body))


def stored_bytes(spec: SequenceSpec) -> int:
    """Upper estimate of a blob's size, of a sequence whose observations do not compress at all."""
    frames = (spec.trace_length + 1) * spec.environment.observation_bytes
    overhead = _HEADER.size + 4 * len(spec.environment.observation_shape) + frames // 256 + 64
    return overhead + _steps_bytes(spec.trace_length) + _state_bytes(spec) + frames


def decode_sequence(blob: Blob, spec: SequenceSpec) -> Sequence:
    """The sequence that ``encode_sequence`` put into ``blob``.

    Raises ValueError if the blob is damaged, is no sequence at all, or does not fit ``spec``.
    """
    environment = spec.environment
    frames = np.empty((spec.trace_length + 1, *environment.observation_shape), environment.observation_dtype)
    return _decode(blob, spec, frames)


def _decode(blob: Blob, spec: SequenceSpec, frames: np.ndarray) -> Sequence:
    """As ``decode_sequence``; the observations are a view of ``frames`` [T+1, *obs], which is written to."""
    view = (blob.data if isinstance(blob, np.ndarray) else memoryview(blob)).cast("B")
    if len(view) < _HEADER.size + _CHECKSUM.size or view[: len(_MAGIC)] != _MAGIC:
        raise ValueError(f"not an encoded sequence: {len(view)} bytes that do not begin with {_MAGIC!r}")
    body = view[: -_CHECKSUM.size]
    _, version, dtype, terminated, ndim, n, policy_index, lstm_size = _HEADER.unpack_from(body)
    if version != _VERSION:
        raise ValueError(f"encoded sequence has format version {version}, this program reads version {_VERSION}")
    if zlib.crc32(body) != _CHECKSUM.unpack_from(view, len(body))[0]:
        raise ValueError("encoded sequence is damaged: its checksum does not match its contents")
    environment = spec.environment
    steps_at = _HEADER.size + 4 * ndim
    state_at = steps_at + _steps_bytes(n)
    frames_at = state_at + _state_bytes(replace(spec, lstm_size=lstm_size))
    if dtype >= len(_DTYPES) or frames_at > len(body):
        raise ValueError("encoded sequence is damaged: its header does not describe its contents")
    shape = struct.unpack_from(f"<{ndim}I", body, _HEADER.size)
    found = (shape, _DTYPES[dtype], lstm_size)
    expected = (tuple(environment.observation_shape), environment.observation_dtype, spec.lstm_size)
    if found != expected:
        raise ValueError(
            f"encoded sequence belongs to another configuration: observation shape, dtype and LSTM width are "
            f"{found}, expected {expected}"
        )
    if not 1 <= n <= spec.trace_length:
        raise ValueError(f"encoded sequence has {n} transitions, expected 1 to {spec.trace_length}")
    steps = _steps(body[steps_at:state_at], n)
    first, actions = steps["previous_actions"][0], steps["actions"][:-1]  # the last is unused
    if max(first, actions.max()) >= environment.num_actions or actions.min() < 0 or first < NO_ACTION:
        raise ValueError(f"encoded sequence holds actions outside 0..{environment.num_actions - 1}")
    return Sequence(
        observations=_decompress(body[frames_at:], frames[: n + 1]),
        terminated=bool(terminated),
        policy_index=policy_index,
        recurrent_state=np.frombuffer(body[state_at:frames_at], _STATE).astype(np.float32).reshape(spec.state_shape),
        **steps,
    )


def decode_batch(
    blob: np.ndarray, offsets: np.ndarray, spec: SequenceSpec, executor: Executor | None = None
) -> SequenceBatch[np.ndarray]:
    """The B sequences of a joined blob as one padded, time-major numpy batch; sequence b becomes column b.

    ``blob`` uint8, the blobs end to end; ``offsets`` int64 [B+1], where each begins and the last ends. With a
    thread ``executor`` columns are decoded in parallel (zstd releases the GIL). Do not call it from a thread of
    that same executor: it waits for its columns. Raises ValueError as ``decode_sequence`` does.
    """
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(blob) or np.any(np.diff(offsets) < 0):
        raise ValueError("offsets of a joined blob must rise from 0 to its length")
    batch = padded_batch(spec, len(offsets) - 1, pad_observations=False)
    view = blob.data

    def decode_column(column: int) -> None:
        blob = view[offsets[column] : offsets[column + 1]]
        sequence = _decode(blob, spec, batch.observations[:, column])
        fill_column(batch, column, sequence)
        batch.observations[sequence.num_transitions + 1 :, column] = 0

    columns = range(len(offsets) - 1)
    # list() waits for every column and raises the first error.
    list(map(decode_column, columns) if executor is None else executor.map(decode_column, columns))
    return batch


def _decompress(compressed: memoryview, frames: np.ndarray) -> np.ndarray:
    """``frames``, filled to its last byte."""
    remaining = frames.data.cast("B")
    try:
        if zstandard.get_frame_parameters(compressed).content_size == frames.nbytes:
            with _zstd.decompressor.stream_reader(compressed) as reader:
                while remaining and (count := reader.readinto(remaining)):
                    remaining = remaining[count:]
            if not remaining:
                return frames
    except zstandard.ZstdError as error:
        raise ValueError(f"encoded sequence is damaged: {error}") from error
    raise ValueError(f"encoded sequence is damaged: its frames do not decompress to {frames.nbytes} bytes")


def _state_bytes(spec: SequenceSpec) -> int:
    return math.prod(spec.state_shape) * _STATE.itemsize


def _steps_bytes(n: int) -> int:
    return sum(each.stored.itemsize * _stored_count(each, n) for each in STEP_FIELDS)


def _stored_count(each: StepField, n: int) -> int:
    """Of a sequence of n transitions."""
    return 1 if each.repeats else n + 1


def _stored(each: StepField, sequence: Sequence) -> bytes:
    """A per-step field in its stored form; ValueError if that does not keep its values."""
    values = getattr(sequence, each.name)
    if each.repeats:
        if not (values[1:] == getattr(sequence, each.repeats)[:-1]).all():
            raise ValueError(f"{each.name}[t] must equal {each.repeats}[t - 1]")
        values = values[:1]
    stored = values.astype(each.stored)
    if each.stored.itemsize < each.dtype.itemsize and not (stored == values).all():
        raise ValueError(f"{each.name} must fit in {each.stored.name}")
    return stored.tobytes()


def _steps(stored: memoryview, n: int) -> dict[str, np.ndarray]:
    """The per-step fields by name, [n+1] each."""
    steps: dict[str, np.ndarray] = {}
    at = 0
    for each in STEP_FIELDS:
        count = _stored_count(each, n)
        steps[each.name] = np.frombuffer(stored, each.stored, count, at).astype(each.dtype)
        at += each.stored.itemsize * count
    for each in STEP_FIELDS:
        if each.repeats:
            steps[each.name] = np.concatenate((steps[each.name], steps[each.repeats][:-1]))
    return steps


def _check_shapes(sequence: Sequence) -> None:
    """ValueError unless the arrays of ``sequence`` have the lengths and dtypes of a sequence."""
    if len(sequence.actions) < 2:
        raise ValueError("a sequence to encode needs at least one transition")
    arrays = {each.name: getattr(sequence, each.name) for each in STEP_FIELDS}
    if {len(array) for array in (sequence.observations, *arrays.values())} != {len(sequence.actions)}:
        raise ValueError("the arrays of a sequence to encode must have one length")
    if sequence.observations.dtype not in _CODES:
        raise ValueError(f"observations must be uint8 or float32, not {sequence.observations.dtype}")
    wrong = [each.name for each in STEP_FIELDS if arrays[each.name].dtype != each.dtype]
    state = sequence.recurrent_state
    if wrong or state.dtype != np.float32 or state.ndim != 3 or state.shape[1] != 2:
        raise ValueError(
            f"a sequence to encode has per-step fields of other types ({', '.join(wrong) or 'none'}) "
            "or a recurrent state that is not float32 [nets, 2, H]"
        )
