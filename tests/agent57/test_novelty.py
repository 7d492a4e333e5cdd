"""Episodic memory and life-long novelty against their slow oracles, and the ways both go silently wrong."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch

from agent57.novelty.episodic_memory import EpisodicMemory
from agent57.novelty.lifelong import LifelongNovelty
from agent57.novelty.nearest import smallest
from agent57.novelty.ngu import combine
from cluster.run.presets import PRESETS
from tests import oracles


def bonuses(memory: EpisodicMemory, steps: Any) -> np.ndarray:
    """Bonuses [S, L] of embeddings [S, L, D] fed in order."""
    return np.stack([memory.bonus(np.asarray(step, np.float32)) for step in steps])


def kernel_reward(relative_distances: list[float], kernel_epsilon: float = 1e-4) -> float:
    """1 / s for squared distances already divided by d_m^2, less nothing."""
    kernels = [kernel_epsilon / (max(d - 0.008, 0.0) + kernel_epsilon) for d in relative_distances]
    return 1 / (math.sqrt(sum(kernels)) + 1e-3)


# --- Agreement with the oracle -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"capacity": 1000},
        {"capacity": 12},
        {"capacity": 10},
        {"capacity": 1000, "num_neighbours": 1},
        {"capacity": 7, "num_neighbours": 3, "distance_decay": 0.9},
        {"capacity": 50, "num_neighbours": 4, "kernel_epsilon": 0.5, "cluster_distance": 0.3, "pseudo_count": 0.1},
        {"capacity": 50, "num_neighbours": 5, "kernel_epsilon": 1.0, "max_similarity": 1.2},
        {"capacity": 1000, "pad_neighbours": True},
        {"capacity": 8, "num_neighbours": 4, "kernel_epsilon": 0.5, "pad_neighbours": True},
    ],
)
def test_bonus_agrees_with_the_oracle(options: dict[str, Any]) -> None:
    """Lanes at different ages, resets in mid-run, revisits, a ring that overwrites."""
    rng = np.random.default_rng(0)
    num_lanes, dim = 3, 4
    memory = EpisodicMemory(num_lanes, embedding_dim=dim, **options)
    slow = [oracles.EpisodicMemory(**options) for _ in range(num_lanes)]
    past = rng.normal(size=(60, num_lanes, dim)).astype(np.float32)
    for step in range(60):
        embeddings = past[step] * (1 + step / 20)
        if step % 4 == 3:
            embeddings = past[step - 2] * np.float32(1 + (step - 2) / 20)
        embeddings = embeddings.astype(np.float32)
        expected = [slow[lane].bonus(embeddings[lane]) for lane in range(num_lanes)]
        np.testing.assert_allclose(memory.bonus(embeddings), expected, rtol=2e-3, atol=1e-6, err_msg=f"step {step}")
        if step == 25:
            memory.reset(np.array([1]))
            slow[1].reset()
        if step == 40:
            memory.reset(np.array([0, 2]))
            slow[0].reset()
            slow[2].reset()


def test_a_padded_memory_pays_from_the_second_state_on_and_knows_a_revisit_at_once() -> None:
    memory = EpisodicMemory(1, 100, 2, pad_neighbours=True)
    states = [np.array([[x, 0.0]], np.float32) for x in (0.0, 1.0, 0.0)]
    first, second, revisit = (float(memory.bonus(state)[0]) for state in states)
    assert first == 0
    all_at_average = math.sqrt(10 * 1e-4 / (1 - 0.008 + 1e-4)) + 1e-3
    assert second == pytest.approx(1 / all_at_average, rel=1e-4)
    assert 0.9 < revisit < 1.0


def test_a_similarity_above_the_limit_pays_nothing() -> None:
    """Ten neighbours at distance 0 are a similarity of sqrt(10) + 0.001."""
    for max_similarity, expected in ((3.0, 0.0), (3.2, 1 / (math.sqrt(10) + 1e-3))):
        memory = EpisodicMemory(1, 100, 2, max_similarity=max_similarity)
        rng = np.random.default_rng(0)
        bonuses(memory, rng.normal(size=(12, 1, 2)))
        bonuses(memory, np.zeros((10, 1, 2)))
        assert memory.bonus(np.zeros((1, 2), np.float32))[0] == pytest.approx(expected, rel=1e-4)


def test_numpy_gives_numpy_and_torch_gives_torch() -> None:
    embeddings = np.random.default_rng(0).normal(size=(15, 2, 4)).astype(np.float32)
    in_numpy, in_torch = EpisodicMemory(2, 50, 4), EpisodicMemory(2, 50, 4)
    for step in embeddings:
        expected, bonus = in_numpy.bonus(step), in_torch.bonus(torch.from_numpy(step))
        assert isinstance(expected, np.ndarray)
        assert isinstance(bonus, torch.Tensor)
        assert expected.shape == tuple(bonus.shape) == (2,)
        np.testing.assert_array_equal(bonus.numpy(), expected)
    assert expected.min() > 0


def test_the_memory_keeps_copies() -> None:
    """A caller that reuses its embedding buffer must not rewrite the past."""
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(20, 1, 3)).astype(np.float32)
    fresh, reusing, buffer = EpisodicMemory(1, 50, 3), EpisodicMemory(1, 50, 3), np.zeros((1, 3), np.float32)
    for step in steps:
        buffer[:] = step
        np.testing.assert_array_equal(reusing.bonus(buffer), fresh.bonus(step.copy()))


# --- Hand-computed -----------------------------------------------------------------------------------------


def test_distances_are_squared_and_averaged_over_neighbours() -> None:
    """Neighbours at distances 1 and 2: squared 1 and 4, their mean 2.5, the first look-up's d_m^2."""
    memory = EpisodicMemory(1, 10, 1, num_neighbours=2, kernel_epsilon=1.0)
    paid = bonuses(memory, [[[0.0]], [[3.0]], [[1.0]]])
    assert paid[2, 0] == pytest.approx(kernel_reward([1 / 2.5, 4 / 2.5], kernel_epsilon=1.0), rel=1e-5)


def test_distances_are_averaged_over_time_newest_included() -> None:
    """k = 1, decay 0.5: squared distances 1, then 9: d_m^2 = (9 + 0.5 * 1) / 1.5."""
    memory = EpisodicMemory(1, 10, 1, num_neighbours=1, kernel_epsilon=1.0, distance_decay=0.5)
    paid = bonuses(memory, [[[0.0]], [[1.0]], [[4.0]]])[:, 0]
    assert paid[1] == pytest.approx(kernel_reward([1.0], kernel_epsilon=1.0), rel=1e-5)
    assert paid[2] == pytest.approx(kernel_reward([9 / (9.5 / 1.5)], kernel_epsilon=1.0), rel=1e-5)


def test_the_average_outlives_the_episode() -> None:
    """After a reset and a second start, d_m^2 still holds the first episode's squared distance of 1."""
    memory = EpisodicMemory(1, 10, 1, num_neighbours=1, kernel_epsilon=1.0, distance_decay=0.5)
    bonuses(memory, [[[0.0]], [[1.0]]])
    memory.reset(np.array([0]))
    paid = bonuses(memory, [[[0.0]], [[3.0]]])[:, 0]
    assert paid[0] == 0.0
    assert paid[1] == pytest.approx(kernel_reward([9 / (9.5 / 1.5)], kernel_epsilon=1.0), rel=1e-5)


# --- Failures seen elsewhere -------------------------------------------------------------------------------


def test_a_distance_that_is_not_finite_leaves_the_average_as_it_was() -> None:
    memory = EpisodicMemory(2, 50, 3, num_neighbours=2)
    rng = np.random.default_rng(0)
    for _ in range(6):
        memory.bonus(rng.normal(size=(2, 3)).astype(np.float32))
    before = memory.running_average()
    memory.bonus(np.array([[np.nan, 0, 0], [1, 0, 0]], np.float32))
    after = memory.running_average()
    for name in before:
        assert after[name][0] == before[name][0]
        assert after[name][1] != before[name][1]


def test_fewer_than_k_entries_pay_nothing() -> None:
    """The bare formula pays 1 / 0.011 = 91 for the very first step."""
    paid = bonuses(EpisodicMemory(2, 100, 3), np.random.default_rng(0).normal(size=(12, 2, 3)))
    assert (paid[:10] == 0).all()
    assert (paid[10:] > 0).all()


def test_every_episode_starts_with_nothing_to_pay() -> None:
    memory, rng = EpisodicMemory(1, 100, 3), np.random.default_rng(0)
    bonuses(memory, rng.normal(size=(20, 1, 3)))
    memory.reset(np.array([0]))
    paid = bonuses(memory, rng.normal(size=(12, 1, 3)))
    assert (paid[:10] == 0).all()
    assert (paid[10:] > 0).all()


def test_lanes_do_not_share_a_memory() -> None:
    """Whatever lane 0 sees, lane 1 is paid the same; the d_m^2 are separate, too."""
    rng = np.random.default_rng(0)
    own = rng.normal(size=(30, 3)).astype(np.float32)
    paid = []
    for other in (own, 1000 * rng.normal(size=(30, 3)).astype(np.float32), np.zeros((30, 3), np.float32)):
        paid.append(bonuses(EpisodicMemory(2, 100, 3), np.stack([other, own], axis=1))[:, 1])
    np.testing.assert_allclose(paid[1], paid[0], rtol=1e-5)
    np.testing.assert_allclose(paid[2], paid[0], rtol=1e-5)


@pytest.mark.parametrize("lanes", [np.array([1]), [1], np.array([False, True, False])])
def test_reset_empties_only_the_lanes_named(lanes: Any) -> None:
    memory, rng = EpisodicMemory(3, 100, 3), np.random.default_rng(0)
    bonuses(memory, rng.normal(size=(15, 3, 3)))
    memory.reset(lanes)
    paid = memory.bonus(rng.normal(size=(3, 3)).astype(np.float32))
    assert paid[1] == 0
    assert paid[0] > 0
    assert paid[2] > 0


def test_resetting_no_lane_changes_nothing() -> None:
    memory, rng = EpisodicMemory(2, 100, 3), np.random.default_rng(0)
    bonuses(memory, rng.normal(size=(15, 2, 3)))
    memory.reset(np.array([], np.int64))
    memory.reset(np.array([False, False]))
    assert (memory.bonus(rng.normal(size=(2, 3)).astype(np.float32)) > 0).all()


def test_a_full_ring_forgets_its_oldest_entry() -> None:
    """Capacity 3, k = 1: the first point is still known after two more, and is new again after three."""
    for between, is_known in ((2, True), (3, False)):
        memory = EpisodicMemory(1, 3, 1, num_neighbours=1)
        points = [0.0, 10.0, 20.0, 30.0][: between + 1]
        bonuses(memory, [[[point]] for point in points])
        paid = memory.bonus(np.array([[0.0]], np.float32))[0]
        assert (paid < 1.01) == is_known


def test_revisits_pay_less_and_less() -> None:
    memory, rng = EpisodicMemory(1, 1000, 8), np.random.default_rng(0)
    bonuses(memory, rng.normal(size=(50, 1, 8)))
    point = rng.normal(size=(1, 8)).astype(np.float32)
    paid = [memory.bonus(point)[0] for _ in range(10)]
    assert (np.diff(paid) < 0).all()
    assert paid[0] > 10 * paid[1]


@pytest.mark.parametrize("offset", [0, 100, 10_000])
def test_an_offset_common_to_all_embeddings_does_not_matter(offset: float) -> None:
    """|x|^2 - 2 x.y + |y|^2 in float32 is off by several units at an offset of 1000, by hundreds at 10 000."""
    rng = np.random.default_rng(0)
    points = (offset + rng.normal(size=(60, 2, 32))).astype(np.float32)
    revisits = (points[:20] + 0.01 * rng.normal(size=(20, 2, 32))).astype(np.float32)
    memory = EpisodicMemory(2, 1000, 32)
    slow = [oracles.EpisodicMemory(1000) for _ in range(2)]
    for _ in range(2):
        for step, point in enumerate([*points, *revisits]):
            expected = [slow[lane].bonus(point[lane]) for lane in range(2)]
            np.testing.assert_allclose(memory.bonus(point), expected, rtol=1e-3)
            assert step < 60 or max(expected) < 1.01
        # Lane 1 alone begins another episode, on the other side of the origin; lane 0 sees everything again.
        memory.reset([1])
        slow[1].reset()
        points[:, 1] *= -1
        revisits[:, 1] *= -1


def test_revisits_are_recognised_far_from_where_the_episode_began() -> None:
    """The search may then swap neighbours that are nearly as far; what is paid uses their true distances."""
    rng = np.random.default_rng(0)
    points = (1000 + rng.normal(size=(90, 1, 32))).astype(np.float32)
    points[0] = 0.0
    # So short an average that the jump from the first point is soon forgotten.
    memory = EpisodicMemory(1, 1000, 32, distance_decay=0.5)
    slow = oracles.EpisodicMemory(1000, distance_decay=0.5)
    paid = [(memory.bonus(point)[0], slow.bonus(point[0])) for point in points]
    np.testing.assert_allclose(*zip(*paid[60:], strict=True), rtol=0.1)
    for point in (points[1:21] + 0.01 * rng.normal(size=(20, 1, 32))).astype(np.float32):
        expected = slow.bonus(point[0])
        assert expected < 1.01
        assert memory.bonus(point)[0] == pytest.approx(expected, rel=1e-2)


def test_the_nearest_are_found_far_from_the_origin() -> None:
    """Small clusters 500 radii from the origin: the kernel sum depends on which entries count as the nearest."""
    rng = np.random.default_rng(1)
    centres = 100 + rng.normal(size=(8, 4))
    memory, slow = EpisodicMemory(1, 1000, 4, num_neighbours=3), oracles.EpisodicMemory(1000, num_neighbours=3)
    for step in range(80):
        point = (centres[step % 8] + 0.2 * rng.normal(size=4)).astype(np.float32)
        assert memory.bonus(point[None])[0] == pytest.approx(slow.bonus(point), rel=1e-3)


def test_identical_embeddings_give_finite_rewards() -> None:
    """d_m^2 = 0: every neighbour counts as the same state."""
    paid = bonuses(EpisodicMemory(1, 100, 4), np.zeros((15, 1, 4)))[:, 0]
    assert paid[10:] == pytest.approx(1 / (math.sqrt(10) + 1e-3), rel=1e-5)


def test_the_scale_of_the_embedding_does_not_matter() -> None:
    steps = np.random.default_rng(0).normal(size=(40, 1, 4)).astype(np.float32)
    reference = bonuses(EpisodicMemory(1, 100, 4), steps)
    for scale in (1e-3, 1e3):
        np.testing.assert_allclose(bonuses(EpisodicMemory(1, 100, 4), steps * np.float32(scale)), reference, rtol=1e-2)


def test_a_restored_memory_pays_the_same() -> None:
    rng = np.random.default_rng(0)
    memory = EpisodicMemory(2, 25, 3)
    bonuses(memory, rng.normal(size=(30, 2, 3)))
    memory.reset(np.array([1]))
    bonuses(memory, rng.normal(size=(8, 2, 3)))
    restored = EpisodicMemory(2, 25, 3)
    restored.load_state_dict(memory.state_dict())
    for step in rng.normal(size=(40, 2, 3)).astype(np.float32):
        np.testing.assert_array_equal(restored.bonus(step), memory.bonus(step))


def test_a_saved_memory_does_not_change_afterwards() -> None:
    rng = np.random.default_rng(0)
    memory = EpisodicMemory(2, 25, 3)
    bonuses(memory, rng.normal(size=(15, 2, 3)))
    state = memory.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    bonuses(memory, rng.normal(size=(15, 2, 3)))
    memory.reset([0])
    assert all(torch.equal(state[name], before[name]) for name in before)


def test_a_memory_restored_over_an_older_one_forgets_the_older() -> None:
    rng = np.random.default_rng(0)
    young, old = EpisodicMemory(1, 100, 3), EpisodicMemory(1, 100, 3)
    bonuses(young, rng.normal(size=(12, 1, 3)))
    bonuses(old, rng.normal(size=(70, 1, 3)))
    old.load_state_dict(young.state_dict())
    for step in rng.normal(size=(30, 1, 3)).astype(np.float32):
        np.testing.assert_allclose(old.bonus(step), young.bonus(step), rtol=1e-6)


# --- Life-long novelty -------------------------------------------------------------------------------------


def test_multipliers_agree_with_the_oracle() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.gamma(2.0, size=rng.integers(1, 6)) * 0.01 for _ in range(50)]
    novelty = LifelongNovelty(horizon=1_000_000)
    for batch, expected in zip(batches, oracles.lifelong_multipliers(batches), strict=True):
        alpha = novelty.multiplier(batch)
        assert alpha.shape == batch.shape
        np.testing.assert_allclose(alpha, expected, rtol=1e-4, atol=1e-4)


def test_errors_count_before_they_are_judged() -> None:
    """Errors 1 and 3 alone: mean 2, std 1, so alpha is 0 and 2."""
    np.testing.assert_allclose(LifelongNovelty(horizon=1000).multiplier(np.array([1.0, 3.0])), [0.0, 2.0], rtol=1e-5)


def test_alpha_is_one_until_a_scale_is_known() -> None:
    novelty = LifelongNovelty(horizon=1000)
    np.testing.assert_array_equal(novelty.multiplier(np.array([0.25])), [1.0])
    np.testing.assert_array_equal(novelty.multiplier(np.array([0.25, 0.25])), [1.0, 1.0])
    assert novelty.multiplier(np.array([0.5]))[0] > 1.5


def test_equal_errors_have_no_scale_even_after_rounding() -> None:
    """0.1 added up many times drifts by rounding alone, which must not pass for novelty."""
    novelty = LifelongNovelty(horizon=1e6)
    for _ in range(200):
        np.testing.assert_allclose(novelty.multiplier(np.full(7, 0.1)), 1.0, atol=1e-3)


def test_alpha_leaves_one_for_the_novel_and_returns_for_the_familiar() -> None:
    """The frames of one room give errors near 0.01, then a new room 0.05: dead novelty would stay at 1."""
    rng = np.random.default_rng(0)
    novelty = LifelongNovelty(horizon=1_000_000)
    for _ in range(200):
        novelty.multiplier(0.01 + 0.001 * rng.normal(size=16))
    assert novelty.multiplier(np.array([0.05]))[0] > 5
    assert abs(novelty.multiplier(np.array([0.01]))[0] - 1) < 0.5


def test_old_errors_fade_beyond_the_horizon() -> None:
    """The predictor learns: errors fall a hundredfold, and what stands out is judged by today's errors."""
    rng = np.random.default_rng(0)
    novelty = LifelongNovelty(horizon=200)
    for _ in range(100):
        novelty.multiplier(1 + 0.1 * rng.normal(size=16))
    for _ in range(200):
        usual = novelty.multiplier(0.01 + 0.001 * rng.normal(size=16))
    assert abs(usual.mean() - 1) < 1
    assert novelty.multiplier(np.array([0.02]))[0] > 3


def test_beyond_the_horizon_a_sample_weighs_one_over_it() -> None:
    """Horizon 2: two new errors replace everything before. Horizon 4: they count for half."""
    novelty = LifelongNovelty(horizon=2)
    novelty.multiplier(np.array([1.0, 3.0]))
    np.testing.assert_allclose(novelty.multiplier(np.array([10.0, 30.0])), [0.0, 2.0], rtol=1e-5, atol=1e-5)
    novelty = LifelongNovelty(horizon=4)
    for _ in range(3):
        novelty.multiplier(np.array([1.0, 1.0, 1.0, 1.0]))
    # Half 1, 1 and half 5, 5: mean 3, std 2.
    np.testing.assert_allclose(novelty.multiplier(np.array([5.0, 5.0])), [2.0, 2.0], rtol=1e-5)


def test_the_lower_of_a_recent_and_a_lasting_mean_counts_step_by_step() -> None:
    """On errors that fall, stand still, rise and fall again; beyond the horizon, too."""
    rng = np.random.default_rng(3)
    level = np.concatenate(
        [np.geomspace(1, 0.1, 100), np.full(50, 0.1), np.geomspace(0.5, 0.3, 100), np.full(30, 0.05)]
    )
    batches = list(level[:, np.newaxis] * rng.gamma(4.0, size=(len(level), 400)))
    novelty = LifelongNovelty(horizon=90_000)
    lower = []
    for batch, expected in zip(batches, oracles.lifelong_multipliers_over_a_run(batches, 90_000), strict=True):
        np.testing.assert_allclose(novelty.multiplier(batch), expected, rtol=1e-4, atol=1e-4)
        lower.append(novelty.recent.mean < novelty.lasting.mean)
    assert 0.2 < np.mean(lower) < 0.8


LANES = 64


def scattered(levels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Errors of the steps of a worker around the level of each, with a spread as measured, [n, LANES]."""
    return levels[:, np.newaxis] * np.exp(0.5 * np.random.default_rng(seed).normal(size=(len(levels), LANES)) - 0.125)


def falling(steps: int, time_constant: float, still: int = 0) -> np.ndarray:
    """The levels of errors that fall by a factor of 5, after standing still for some steps, [n]."""
    at = np.arange(0, steps, LANES)
    return 0.06 + 0.24 * np.exp(-np.maximum(at - still, 0) / time_constant)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("time_constant", "still"), [(5_000, 0), (30_000, 0), (100_000, 0), (5_000, 120_000)])
def test_novelty_stays_alive_while_the_predictor_learns_and_afterwards(
    preset: str, time_constant: float, still: int
) -> None:
    """A mean over 1e6 steps leaves 0.05 of the alphas above 1, where errors that stand still give 0.4."""
    novelty = LifelongNovelty(PRESETS[preset].intrinsic.error_horizon)
    errors = scattered(falling(300_000, time_constant, still))
    above = np.array([np.mean(novelty.multiplier(batch) > 1) for batch in errors])
    shares = [float(tenth.mean()) for tenth in np.array_split(above, 10)]
    assert all(0.2 < share < 0.5 for share in shares[1:]), shares


@functools.cache
def after(steps: int, time_constant: float) -> tuple[LifelongNovelty, float]:
    """(novelty after errors that fell, their level then); the preset `paper`."""
    novelty, levels = LifelongNovelty(PRESETS["paper"].intrinsic.error_horizon), falling(steps, time_constant)
    for batch in scattered(levels):
        novelty.multiplier(batch)
    return novelty, float(levels[-1])


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("times", [3, 8])
@pytest.mark.parametrize(("learned", "time_constant"), [(10_000, 5_000), (10_000, 100_000), (50_000, 50_000)])
def test_what_is_new_late_stays_new_until_its_error_has_halved(
    share: float, times: float, learned: float, time_constant: float
) -> None:
    """Also where it is all that is seen, and takes as long to learn as all else did and still does."""
    trained, ordinary = after(100_000, learned)
    novelty, rng = LifelongNovelty(trained.horizon), np.random.default_rng(1)
    novelty.load_state_dict(trained.state_dict())
    alphas: list[float] = []
    for step, batch in enumerate(scattered(np.full(round(time_constant * math.log(2)) // LANES, ordinary))):
        new = rng.random(LANES) < share
        level = times * ordinary * np.exp(-LANES * step / time_constant)
        alphas += novelty.multiplier(np.where(new, level, batch))[new].tolist()
    assert alphas[0] > 2
    assert min(alphas) > 1


def test_errors_that_are_not_finite_change_nothing_and_are_not_novel() -> None:
    novelty, other = LifelongNovelty(), LifelongNovelty()
    for batch in ([1.0, 2.0], [3.0, 0.5]):
        alphas = novelty.multiplier(np.array([np.nan, *batch, np.inf]))
        np.testing.assert_array_equal(alphas, [1, *other.multiplier(np.array(batch)), 1])
        np.testing.assert_array_equal(novelty.multiplier(np.full(2, np.nan)), [1, 1])
        np.testing.assert_array_equal(novelty.scaled(np.array([np.nan, np.inf])), [0, 0])
    assert novelty.state_dict() == other.state_dict()


def test_novelty_continues_from_its_state_under_another_horizon_too() -> None:
    novelty, same, shorter = LifelongNovelty(20_000), LifelongNovelty(20_000), LifelongNovelty(3)
    for batch in scattered(falling(15_000, 2_000)):
        novelty.multiplier(batch)
    same.load_state_dict(novelty.state_dict())
    shorter.load_state_dict(novelty.state_dict())
    np.testing.assert_array_equal(same.multiplier(np.array([2.0])), novelty.multiplier(np.array([2.0])))
    assert same.state_dict() == novelty.state_dict()
    # The three newest errors are all that counts.
    expected = 1 + np.array([-1, 0, 1]) / np.sqrt(2 / 3)
    np.testing.assert_allclose(shorter.multiplier(np.array([1.0, 2.0, 3.0])), expected, 1e-5)


def test_the_multiplier_is_clipped_where_it_is_applied() -> None:
    paid = combine(np.array([2.0, 2.0, 2.0, 0.0]), np.array([-3.0, 1.5, 40.0, 40.0]), 5.0)
    np.testing.assert_allclose(paid, [2.0, 3.0, 10.0, 0.0])


@pytest.mark.parametrize(("columns", "k"), [(40, 10), (60, 3), (3, 10)])
def test_the_smallest_scores_are_found_among_many(columns: int, k: int) -> None:
    rng = np.random.default_rng(columns)
    scores = torch.from_numpy(rng.normal(size=(4, 32 * columns)).astype(np.float32))
    scores[1, 7:] = torch.inf  # Fewer entries than k: what is missing is infinitely far.
    scores[2, ::2] = -5.0  # Ties.
    scores[3, :k] = torch.arange(-float(k), 0.0) - 10  # All in one row of the table, or in few columns.
    values, where = smallest(scores, k, 32)
    expected = scores.topk(k, dim=1, largest=False).values
    torch.testing.assert_close(values.sort(1).values, expected)
    torch.testing.assert_close(scores.gather(1, where), values)
    for row in where:
        assert len(set(row.tolist())) == k, "one place twice"


def test_a_memory_that_grew_in_inference_mode_can_be_restored_outside() -> None:
    memory, other = (EpisodicMemory(1, 5_000, 2) for _ in range(2))
    with torch.inference_mode():
        for step in range(1_100):
            memory.bonus(np.array([[step, -step]], np.float32))
    memory.reset([0])
    memory.bonus(np.ones((1, 2), np.float32))
    other.load_state_dict(memory.state_dict())
    memory.load_state_dict(other.state_dict())
    assert memory.sizes.tolist() == other.sizes.tolist() == [1]


def test_a_restored_memory_goes_on_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    memory, restored = (EpisodicMemory(4, 700, 32) for _ in range(2))
    for step in range(900):
        if step in (300, 850):
            restored.load_state_dict(memory.state_dict())
        embeddings = rng.normal(size=(4, 32)).astype(np.float32)
        embeddings[1] = rng.integers(3, size=32)
        bonus = memory.bonus(embeddings)
        if step >= 300:
            np.testing.assert_array_equal(bonus, restored.bonus(embeddings), err_msg=f"step {step}")
            np.testing.assert_array_equal(memory._squared_norms, restored._squared_norms)


@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_other_lanes_begin_with_the_mean_distance_of_those_that_measured_one(lanes: int) -> None:
    measured = {"distance_sum": np.array([2.0, 12.0, 0.0]), "distance_weight": np.array([1.0, 3.0, 0.0])}
    memory = EpisodicMemory(lanes, 50, 3)
    memory.load_running_average(measured)
    taken = memory.running_average()
    assert taken["distance_sum"].shape == (lanes,)
    np.testing.assert_allclose(taken["distance_sum"] / taken["distance_weight"], np.full(lanes, 3.0))
    same = EpisodicMemory(3, 50, 3)
    same.load_running_average(measured)
    np.testing.assert_array_equal(same.running_average()["distance_sum"], measured["distance_sum"])
