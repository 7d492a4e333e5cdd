"""One sequence as one compressed blob, and back: what travels from actor to replay to learner.

Frames of one episode resemble each other, so zstd at its fastest level makes them tens of times smaller: the
paper's replay then fits in a few GB of memory. Actors' sequences are encoded on their way to a replay shard,
which never looks inside; the learner's prefetch threads decode whole batches.

Layout, little-endian: header | observation shape | actions | rewards, probabilities, recurrent state | frames
(zstd) | CRC-32 of all that precedes it.
"""

from __future__ import annotations

import struct
import threading
import zlib
from concurrent.futures import Executor

import numpy as np
import zstandard

from agent57.structures import NO_ACTION, Sequence, SequenceBatch, SequenceSpec

_MAGIC = b"A57S"
_VERSION = 1
_HEADER = struct.Struct("<4sBBBBIiI")  # magic, version, dtype, terminated, ndim, n, policy index, LSTM width
_CHECKSUM = struct.Struct("<I")
_DTYPES = ("uint8", "float32")
_ACTION = np.dtype("<i2")
_FLOAT = np.dtype("<f4")
_FLOAT32 = np.dtype(np.float32)
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
    transition, and for previous actions that contradict the actions (they are not stored, but derived).
    """
    run = _checked_actions(sequence)
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
    steps = (sequence.behaviour_probs, sequence.extrinsic_rewards, sequence.intrinsic_rewards)
    floats = np.concatenate((*steps, sequence.recurrent_state.ravel()), dtype=_FLOAT)
    frames = _zstd.compressor(level).compress(observations.data)
    body = b"".join((header, shape, run.tobytes(), floats.tobytes(), frames))
    return body + _CHECKSUM.pack(zlib.crc32(body))


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
    actions_at = _HEADER.size + 4 * ndim
    floats_at = actions_at + _ACTION.itemsize * (n + 2)
    frames_at = floats_at + _FLOAT.itemsize * (3 * (n + 1) + 4 * lstm_size)
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
    actions = np.frombuffer(body, _ACTION, n + 2, actions_at).astype(np.int64)
    if actions[:-1].max() >= environment.num_actions or actions[1:-1].min() < 0 or actions[0] < NO_ACTION:
        raise ValueError(f"encoded sequence holds actions outside 0..{environment.num_actions - 1}")
    floats = np.frombuffer(body, _FLOAT, 3 * (n + 1) + 4 * lstm_size, floats_at).astype(np.float32)
    steps = floats[: 3 * (n + 1)].reshape(3, n + 1)
    return Sequence(
        observations=_decompress(body[frames_at:], frames[: n + 1]),
        previous_actions=actions[:-1],
        actions=actions[1:],
        behaviour_probs=steps[0],
        extrinsic_rewards=steps[1],
        intrinsic_rewards=steps[2],
        terminated=bool(terminated),
        policy_index=policy_index,
        recurrent_state=floats[3 * (n + 1) :].reshape(2, 2, lstm_size),
    )


def decode_batch(
    blob: np.ndarray, offsets: np.ndarray, spec: SequenceSpec, executor: Executor | None = None
) -> SequenceBatch:
    """The B sequences of a joined blob as one padded, time-major numpy batch; sequence b becomes column b.

    ``blob`` uint8, the blobs end to end; ``offsets`` int64 [B+1], where each begins and the last ends. With a
    thread ``executor`` columns are decoded in parallel (zstd releases the GIL). Do not call it from a thread of
    that same executor: it waits for its columns. Raises ValueError as ``decode_sequence`` does.
    """
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(blob) or np.any(np.diff(offsets) < 0):
        raise ValueError("offsets of a joined blob must rise from 0 to its length")
    batch = SequenceBatch.empty(spec, len(offsets) - 1, pad_observations=False)
    view = blob.data

    def decode_column(column: int) -> None:
        blob = view[offsets[column] : offsets[column + 1]]
        sequence = _decode(blob, spec, batch.observations[:, column])
        batch.fill_scalars(column, sequence)
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


def _checked_actions(sequence: Sequence) -> np.ndarray:
    """One run a_{-1}, a_0 .. a_n as it is stored: it holds both actions and previous actions.

    Raises ValueError if anything about ``sequence`` keeps it from being stored exactly.
    """
    steps = len(sequence.actions)
    floats = (sequence.behaviour_probs, sequence.extrinsic_rewards, sequence.intrinsic_rewards)
    state = sequence.recurrent_state
    if steps < 2:
        raise ValueError("a sequence to encode needs at least one transition")
    if {len(array) for array in (sequence.observations, sequence.previous_actions, *floats)} != {steps}:
        raise ValueError("the arrays of a sequence to encode must have one length")
    if sequence.observations.dtype not in _CODES:
        raise ValueError(f"observations must be uint8 or float32, not {sequence.observations.dtype}")
    if {array.dtype for array in (*floats, state)} != {_FLOAT32} or state.shape[:2] != (2, 2) or state.ndim != 3:
        raise ValueError("probabilities, rewards and the recurrent state [2, 2, H] must be float32")
    exact = np.concatenate((sequence.previous_actions[:1], sequence.actions))
    run = exact.astype(_ACTION)
    if not (sequence.previous_actions == exact[:-1]).all():
        raise ValueError("previous_actions[t] must equal actions[t - 1]")
    if not (run == exact).all():
        raise ValueError(f"actions must fit in {_ACTION.name}")
    return run
