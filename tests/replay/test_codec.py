"""The codec: exact round trips, padding never stored, and one clear sentence for every blob it cannot read."""

from __future__ import annotations

import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent57.structures import NO_ACTION, EnvironmentSpec, Sequence, SequenceBatch, SequenceSpec, padded_batch
from replay.codec import _zstd, decode_batch, decode_sequence, encode_sequence, stored_bytes
from tests.loss_oracle import fill_whole

IMAGES = SequenceSpec(EnvironmentSpec((1, 12, 12), "uint8", 255.0, 18), trace_length=10, lstm_size=8)
VECTORS = SequenceSpec(EnvironmentSpec((5,), "float32", 1.0, 3), trace_length=10, lstm_size=8)


def make_sequence(spec: SequenceSpec, n: int, seed: int = 0, first_step: bool = True) -> Sequence:
    rng = np.random.default_rng(seed)
    shape = (n + 1, *spec.environment.observation_shape)
    if spec.environment.observation_dtype == "uint8":
        observations = rng.integers(0, 256, shape, np.uint8)
    else:
        observations = rng.standard_normal(shape, np.float32)
    actions = rng.integers(0, spec.environment.num_actions, n + 1)
    before = NO_ACTION if first_step else rng.integers(0, spec.environment.num_actions)
    return Sequence(
        observations=observations,
        previous_actions=np.concatenate(([before], actions[:-1])),
        actions=actions,
        behaviour_probs=rng.random(n + 1, np.float32),
        extrinsic_rewards=rng.standard_normal(n + 1, np.float32),
        intrinsic_rewards=rng.standard_normal(n + 1, np.float32),
        terminated=bool(rng.integers(2)),
        policy_index=int(rng.integers(32)),
        recurrent_state=rng.standard_normal((2, 2, spec.lstm_size), np.float32),
    )


def assert_same(one: Sequence | SequenceBatch, other: Sequence | SequenceBatch) -> None:
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert np.asarray(a).dtype == np.asarray(b).dtype, field.name
        assert np.asarray(a).shape == np.asarray(b).shape, field.name
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), field.name


def join(blobs: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    return np.frombuffer(b"".join(blobs), np.uint8), np.cumsum([0, *map(len, blobs)])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([IMAGES, VECTORS]), st.integers(1, 10), st.integers(0, 2**32), st.booleans(), st.integers(1, 5))
def test_round_trip_is_exact(spec: SequenceSpec, n: int, seed: int, first_step: bool, level: int) -> None:
    sequence = make_sequence(spec, n, seed, first_step)
    assert_same(decode_sequence(encode_sequence(sequence, level), spec), sequence)


def test_special_floats_keep_their_bits() -> None:
    sequence = make_sequence(VECTORS, 3)
    sequence.observations[0] = [np.nan, -0.0, np.inf, -np.inf, 1e-45]
    sequence.extrinsic_rewards[:] = [np.nan, -0.0, np.inf, 1e-45]
    assert_same(decode_sequence(encode_sequence(sequence), VECTORS), sequence)


def test_arrays_that_are_views_encode_like_copies() -> None:
    sequence = make_sequence(IMAGES, 4)
    strided = replace(
        sequence,
        observations=np.repeat(sequence.observations, 2, axis=0)[::2],
        recurrent_state=np.asfortranarray(sequence.recurrent_state),
    )
    assert encode_sequence(strided) == encode_sequence(sequence)


def test_any_kind_of_buffer_decodes() -> None:
    sequence = make_sequence(IMAGES, 4)
    blob = encode_sequence(sequence)
    for buffer in (bytearray(blob), memoryview(blob), np.frombuffer(b"x" + blob, np.uint8)[1:]):
        assert_same(decode_sequence(buffer, IMAGES), sequence)


def test_short_sequences_store_no_padding_and_repeated_frames_cost_little() -> None:
    noise = [len(encode_sequence(make_sequence(IMAGES, n))) for n in (1, 5, 10)]
    per_step = 12 * 12 + 2 + 3 * 4
    assert noise[1] - noise[0] == pytest.approx(4 * per_step, rel=0.05)
    assert noise[2] - noise[1] == pytest.approx(5 * per_step, rel=0.05)
    still = make_sequence(IMAGES, 10)
    still.observations[1:] = still.observations[0]
    assert len(encode_sequence(still)) < noise[2] - 8 * 12 * 12


@pytest.mark.parametrize("threads", [0, 4])
@pytest.mark.parametrize("spec", [IMAGES, VECTORS])
def test_batch_equals_the_sequences_filled_one_by_one(
    spec: SequenceSpec, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The batch's memory was used before.
    monkeypatch.setattr(np, "empty", lambda shape, dtype: np.full(shape, 7, dtype))
    sequences = [make_sequence(spec, n, seed=n) for n in (10, 1, 7, 10, 2)]
    expected = padded_batch(spec, len(sequences))
    for column, sequence in enumerate(sequences):
        fill_whole(expected, column, sequence)
    blob, offsets = join([encode_sequence(sequence) for sequence in sequences])
    if threads:
        with ThreadPoolExecutor(threads) as executor:
            batch = decode_batch(blob, offsets, spec, executor)
    else:
        batch = decode_batch(blob, offsets, spec)
    assert_same(batch, expected)
    assert batch.num_transitions == 30


def test_many_threads_encode_and_decode_at_once() -> None:
    sequences = [make_sequence(IMAGES, 10, seed) for seed in range(200)]
    with ThreadPoolExecutor(8) as executor:
        blobs = list(executor.map(encode_sequence, sequences))
        decoded = list(executor.map(lambda blob: decode_sequence(blob, IMAGES), blobs))
    for sequence, copy in zip(sequences, decoded, strict=True):
        assert_same(copy, sequence)


def test_threads_do_not_share_zstd_contexts() -> None:
    """A race would show only now and then, so this looks inside."""
    together = threading.Barrier(2, timeout=10)

    def own(_: int) -> set[int]:
        together.wait()
        parts = {id(_zstd.decompressor), id(_zstd.compressor(1))}
        together.wait()
        return parts

    with ThreadPoolExecutor(2) as executor:
        one, other = executor.map(own, range(2))
    assert one.isdisjoint(other)


@pytest.mark.parametrize("change", [{"observation_shape": (1, 6, 6)}, {"observation_dtype": "float32"}])
def test_one_thread_may_decode_batches_of_different_specs(change: dict[str, object]) -> None:
    for spec in (IMAGES, replace(IMAGES, environment=replace(IMAGES.environment, **change)), IMAGES):  # type: ignore[arg-type]
        sequence = make_sequence(spec, 10)
        batch = decode_batch(*join([encode_sequence(sequence)]), spec)
        np.testing.assert_array_equal(batch.observations[:, 0], sequence.observations)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_bad_blob_in_a_batch_is_reported(threads: int) -> None:
    good = encode_sequence(make_sequence(IMAGES, 3))
    bad = good[:-9] + bytes(9)
    blob, offsets = join([good, bad, good])
    executor = ThreadPoolExecutor(2) if threads else None
    with pytest.raises(ValueError, match="checksum"):
        decode_batch(blob, offsets, IMAGES, executor)
    if executor is not None:
        executor.shutdown()


@pytest.mark.parametrize("offsets", [[0], [0, 5], [1, 9], [0, 9, 5, 10]])
def test_wrong_offsets_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="offsets"):
        decode_batch(np.zeros(10, np.uint8), np.array(offsets), IMAGES)


def test_every_damaged_byte_and_every_truncation_is_noticed() -> None:
    blob = encode_sequence(make_sequence(IMAGES, 2))
    for position in range(len(blob)):
        damaged = bytearray(blob)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(ValueError, match="encoded sequence"):
            decode_sequence(damaged, IMAGES)
        with pytest.raises(ValueError, match="encoded sequence"):
            decode_sequence(blob[:position], IMAGES)


@pytest.mark.parametrize(
    "spec",
    [
        replace(IMAGES, lstm_size=16),
        replace(IMAGES, environment=replace(IMAGES.environment, observation_shape=(1, 6, 24))),
        replace(IMAGES, environment=replace(IMAGES.environment, observation_dtype="float32")),
    ],
)
def test_blob_of_another_configuration_is_refused(spec: SequenceSpec) -> None:
    with pytest.raises(ValueError, match="another configuration"):
        decode_sequence(encode_sequence(make_sequence(IMAGES, 2)), spec)


def test_blob_that_is_too_long_or_has_too_many_actions_is_refused() -> None:
    sequence = make_sequence(IMAGES, 10)
    sequence.actions[3] = sequence.previous_actions[4] = 17
    blob = encode_sequence(sequence)
    with pytest.raises(ValueError, match="10 transitions, expected 1 to 9"):
        decode_sequence(blob, replace(IMAGES, trace_length=9))
    with pytest.raises(ValueError, match=r"actions outside 0\.\.16"):
        decode_sequence(blob, replace(IMAGES, environment=replace(IMAGES.environment, num_actions=17)))


def test_the_unused_last_action_may_be_anything() -> None:
    sequence = make_sequence(IMAGES, 3)
    sequence.actions[-1] = NO_ACTION
    assert_same(decode_sequence(encode_sequence(sequence), IMAGES), sequence)


def test_forged_header_cannot_ask_for_memory() -> None:
    """With a checksum that fits, only the checks on sizes stand between the header and an allocation."""
    body = bytearray(encode_sequence(make_sequence(IMAGES, 2))[:-4])
    body[8:12] = (2**31).to_bytes(4, "little")  # n
    with pytest.raises(ValueError, match="header"):
        decode_sequence(bytes(body) + zlib.crc32(body).to_bytes(4, "little"), IMAGES)


def test_frames_that_decompress_to_another_size_are_refused() -> None:
    long, short = (encode_sequence(make_sequence(IMAGES, n))[:-4] for n in (9, 2))
    frames = b"\x28\xb5\x2f\xfd"  # how a zstd frame begins
    body = short[: short.index(frames)] + long[long.index(frames) :]
    with pytest.raises(ValueError, match="do not decompress to"):
        decode_sequence(body + zlib.crc32(body).to_bytes(4, "little"), IMAGES)


def test_frames_cut_short_behind_a_valid_checksum_are_refused() -> None:
    body = encode_sequence(make_sequence(IMAGES, 9))[:-4][:-100]
    with pytest.raises(ValueError, match="damaged"):
        decode_sequence(body + zlib.crc32(body).to_bytes(4, "little"), IMAGES)


def test_decoded_sequences_do_not_share_memory() -> None:
    one, other = make_sequence(IMAGES, 5, seed=1), make_sequence(IMAGES, 5, seed=2)
    first, second = (decode_sequence(encode_sequence(sequence), IMAGES) for sequence in (one, other))
    assert_same(first, one)
    assert_same(second, other)


def test_sequences_that_would_not_survive_the_trip_are_refused() -> None:
    good = make_sequence(IMAGES, 3)
    bad = {
        "at least one transition": make_sequence(IMAGES, 0),
        "one length": replace(good, extrinsic_rewards=good.extrinsic_rewards[1:]),
        "uint8 or float32": replace(good, observations=good.observations.astype(np.int64)),
        "other types .behaviour_probs": replace(good, behaviour_probs=good.behaviour_probs.astype(np.float64)),
        r"\[nets, 2, H\]": replace(good, recurrent_state=good.recurrent_state[0]),
        r"must equal actions\[t - 1\]": replace(good, previous_actions=good.previous_actions + 1),
        "fit in int16": replace(
            good, actions=np.full(4, 40_000), previous_actions=np.array([-1, *[40_000] * 3], np.int64)
        ),
    }
    for message, sequence in bad.items():
        with pytest.raises(ValueError, match=message):
            encode_sequence(sequence)


@pytest.mark.parametrize("spec", [IMAGES, VECTORS])
def test_the_estimate_of_a_blob_is_an_upper_one_and_close(spec: SequenceSpec) -> None:
    blob = encode_sequence(make_sequence(spec, 10))  # noise, which does not compress
    assert 0.8 * stored_bytes(spec) < len(blob) <= stored_bytes(spec)
