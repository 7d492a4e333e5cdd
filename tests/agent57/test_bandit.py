"""The sliding-window bandit against a recount of its history."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent57.bandit import SlidingWindowUCB
from tests import oracles

# Small whole returns make ties and let the bonus decide; large ones show what is added up wrongly.
returns = st.integers(0, 2).map(float) | st.floats(-1e3, 1e3)
pulls = st.lists(st.tuples(st.integers(0, 4), returns), max_size=40)


def make(
    num_arms: int = 5, window: int = 10, epsilon: float = 0.0, ucb_bonus: float = 1.0, seed: int = 0, **options: Any
) -> SlidingWindowUCB:
    return SlidingWindowUCB(num_arms, window, epsilon, ucb_bonus, np.random.default_rng(seed), **options)


def past_first_pulls(bandit: SlidingWindowUCB, num_arms: int = 5) -> SlidingWindowUCB:
    for _ in range(num_arms):
        bandit.select()
    return bandit


def fill(bandit: SlidingWindowUCB, history: list[tuple[int, float]]) -> None:
    for arm, episode_return in history:
        bandit.update(arm, episode_return)


@given(history=pulls, window=st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_counts_and_means_equal_a_recount(history: list[tuple[int, float]], window: int) -> None:
    bandit = make(window=window)
    for pulled in range(len(history) + 1):
        counts, means = oracles.window_statistics(history[:pulled], 5, window)
        assert list(bandit.counts) == counts
        for arm in range(5):
            if counts[arm]:
                assert bandit.means[arm] == pytest.approx(means[arm], rel=1e-9, abs=1e-9)
        if pulled < len(history):
            bandit.update(*history[pulled])


@given(history=pulls, window=st.integers(1, 12), bonus=st.sampled_from([0.0, 1.0, 30.0]), normalize=st.booleans())
@settings(max_examples=150, deadline=None)
def test_choices_are_those_of_the_formula(
    history: list[tuple[int, float]], window: int, bonus: float, normalize: bool
) -> None:
    bandit = past_first_pulls(make(window=window, ucb_bonus=bonus, normalize_returns=normalize))
    fill(bandit, history)
    allowed = oracles.ucb_choices(history, 5, window, bonus, normalize)
    for _ in range(3):
        choice = bandit.select()
        assert type(choice) is int
        assert choice in allowed


@given(history=pulls.filter(len), window=st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_the_greedy_arm_has_the_highest_mean_of_those_played(history: list[tuple[int, float]], window: int) -> None:
    bandit = make(window=window, ucb_bonus=1e6)
    fill(bandit, history)
    counts, means = oracles.window_statistics(history, 5, window)
    best = max(mean for mean in means if mean is not None)
    greedy = bandit.greedy_arm()
    assert type(greedy) is int
    assert counts[greedy] > 0
    assert means[greedy] == pytest.approx(best, rel=1e-9, abs=1e-9)


def test_the_first_choices_take_each_arm_once() -> None:
    for epsilon in (0.0, 1.0):
        bandit = make(num_arms=7, epsilon=epsilon)
        chosen = []
        for _ in range(7):
            chosen.append(bandit.select())
            bandit.update(chosen[-1], 100.0 if chosen[-1] == 0 else 0.0)
        assert chosen == list(range(7))


def test_the_first_choices_do_not_wait_for_returns() -> None:
    bandit = make(num_arms=4)
    assert [bandit.select() for _ in range(4)] == [0, 1, 2, 3]


def test_choosing_is_not_a_pull() -> None:
    """A phantom return of 0 at start-up would sit in the window."""
    bandit = make(epsilon=0.5)
    for _ in range(20):
        bandit.select()
    assert list(bandit.counts) == [0] * 5
    bandit.update(3, -7.0)
    assert list(bandit.counts) == [0, 0, 0, 1, 0]
    assert bandit.means[3] == -7.0
    assert bandit.greedy_arm() == 3


def test_the_window_forgets() -> None:
    """Arm 0 was the best for 1000 pulls; ten pulls later a window of 10 knows only the new truth."""
    bandit = make(num_arms=2, window=10, ucb_bonus=0.0)
    fill(bandit, [(0, 50.0), (1, 1.0)] * 500)
    assert bandit.greedy_arm() == 0
    fill(bandit, [(0, 0.0), (1, 1.0)] * 5)
    assert list(bandit.counts) == [5, 5]
    assert bandit.means[0] == pytest.approx(0.0, abs=1e-12)
    assert bandit.greedy_arm() == 1
    assert past_first_pulls(bandit, 2).select() == 1


def test_a_huge_return_leaves_no_trace_once_forgotten() -> None:
    """Means kept by adding and subtracting would be left with the rounding error of 1e17."""
    bandit = make(num_arms=2, window=3)
    fill(bandit, [(0, 1e17), (0, 1.0), (0, 2.0), (0, 3.0)])
    assert bandit.means[0] == pytest.approx(2.0)


def test_arms_absent_from_the_window_come_first_and_in_random_order() -> None:
    bandit = past_first_pulls(make(num_arms=5, window=2))
    fill(bandit, [(2, 1e6), (3, 1e6), (0, 1e6), (1, 1e6)])
    chosen = {bandit.select() for _ in range(60)}
    assert chosen == {2, 3, 4}


def test_a_random_arm_is_uniform_over_all_arms() -> None:
    bandit = past_first_pulls(make(num_arms=4, window=100, epsilon=0.5, ucb_bonus=0.0, seed=1), 4)
    fill(bandit, [(arm, 1.0 if arm == 2 else 0.0) for arm in range(4)])
    draws = 8000
    frequencies = np.bincount([bandit.select() for _ in range(draws)], minlength=4) / draws
    # 0.5 + 0.5 / 4 for the best arm; four standard errors are 0.022.
    np.testing.assert_allclose(frequencies, [0.125, 0.125, 0.625, 0.125], atol=0.022)


def test_the_bonus_falls_with_the_pulls_in_the_window() -> None:
    """Means 1.0 (9 pulls) and 0.5 (1 pull): 1 + 1/3 < 0.5 + 1 with bonus 1, 1 > 0.5 without."""
    history = [(0, 1.0)] * 9 + [(1, 0.5)]
    for bonus, best in ((1.0, 1), (0.0, 0)):
        bandit = past_first_pulls(make(num_arms=2, window=100, ucb_bonus=bonus), 2)
        fill(bandit, history)
        assert bandit.select() == best
        assert bandit.greedy_arm() == 0


def test_the_bonus_falls_with_the_square_root() -> None:
    """0.6 + sqrt(1/4) > 0 + 1, although 0.6 + 1/4 < 0 + 1."""
    bandit = past_first_pulls(make(num_arms=2, window=100), 2)
    fill(bandit, [(0, 0.6)] * 4 + [(1, 0.0)])
    assert bandit.select() == 0


def test_normalised_choices_do_not_depend_on_the_scale_of_returns() -> None:
    history = [(0, 1.0)] * 9 + [(1, 0.5), (1, 0.0)]
    for scale, shift in ((1.0, 0.0), (1e4, 0.0), (1e-4, 0.0), (1e3, -5e4)):
        bandit = past_first_pulls(make(num_arms=2, window=100, normalize_returns=True), 2)
        fill(bandit, [(arm, shift + scale * episode_return) for arm, episode_return in history])
        # Scaled means 1 and 0.25: 1 + 1/3 against 0.25 + sqrt(1/2).
        assert bandit.select() == 0
        bandit.update(0, shift + scale * 1.0)
        assert bandit.means[1] == pytest.approx(shift + scale * 0.25)


def test_normalising_equal_returns_divides_by_nothing() -> None:
    bandit = past_first_pulls(make(num_arms=2, window=100, normalize_returns=True), 2)
    with np.errstate(all="raise"):
        fill(bandit, [(0, 3.0), (0, 3.0), (1, 3.0)])
        assert bandit.select() == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_return_that_is_not_finite_is_refused(bad: float) -> None:
    bandit = make()
    with pytest.raises(ValueError, match=r"finite|nan|inf"):
        bandit.update(0, bad)
    assert list(bandit.counts) == [0] * 5


@pytest.mark.parametrize("played", [0, 3, 25])
def test_a_restored_bandit_chooses_alike(played: int) -> None:
    """Also in the middle of the first pulls, with a generator seeded differently, over pulls of its own."""
    bandit = make(window=10, epsilon=0.5)
    for pull in range(played):
        bandit.update(bandit.select(), float(pull % 7))
    state = json.loads(json.dumps(bandit.state_dict()))
    restored = make(window=10, epsilon=0.5, seed=999)
    fill(restored, [(4, 1e6), (4, 1e6)])
    restored.load_state_dict(state)
    assert list(restored.counts) == list(bandit.counts)
    for pull in range(60):
        chosen = bandit.select()
        assert restored.select() == chosen
        bandit.update(chosen, float(pull % 5))
        restored.update(chosen, float(pull % 5))
    np.testing.assert_array_equal(restored.means, bandit.means)


def test_a_saved_state_does_not_change_afterwards() -> None:
    bandit = make()
    bandit.update(1, 2.0)
    state = bandit.state_dict()
    before = json.dumps(state)
    bandit.update(2, 3.0)
    bandit.select()
    assert json.dumps(state) == before


def test_a_state_of_another_family_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\d"):
        make(num_arms=3).load_state_dict(make(num_arms=4).state_dict())


def test_lately_best_forgets_and_distrusts_single_pulls() -> None:
    bandit = make(3, window=3600)
    assert bandit.lately_best_arm(4.0) is None
    for _ in range(50):
        bandit.update(0, 10.0)
        bandit.update(1, 5.0)
    assert bandit.lately_best_arm(4.0) == bandit.greedy_arm() == 0
    for _ in range(4):
        bandit.update(0, 0.0)
    assert bandit.greedy_arm() == 0
    assert bandit.lately_best_arm(4.0) == 1
    # Returns of arm 1 spread by 2: one lucky pull of arm 2 does not beat many good ones, many do.
    for value in (3.0, 7.0) * 50:
        bandit.update(1, value)
    for _ in range(20):
        bandit.update(0, 0.0)
    bandit.update(2, 6.0)
    assert bandit.lately_best_arm(40.0) == 1
    for value in (7.0, 9.0) * 5:
        bandit.update(2, value)
    assert bandit.lately_best_arm(40.0) == 2


def test_lately_best_by_hand() -> None:
    """Half-life 1: the weights of pulls 4, 3, 2, 1, 0 pulls old are 1/16 to 1; relative to an arm's newest."""
    bandit = make(2, window=3600)
    for arm, value in ((0, 8.0), (1, 4.0), (1, 1.0), (0, 4.0), (0, 4.0)):
        bandit.update(arm, value)
    weights = [np.array([1 / 16, 1 / 2, 1.0]), np.array([1 / 2, 1.0])]
    values = [np.array([8.0, 4.0, 4.0]), np.array([4.0, 1.0])]
    means = [np.average(v, weights=w) for v, w in zip(values, weights, strict=True)]
    freedom = sum(w.sum() - (w**2).sum() / w.sum() for w in weights)
    variance = sum((w * (v - m) ** 2).sum() for w, v, m in zip(weights, values, means, strict=True)) / freedom
    bounds = [m - np.sqrt(variance * (w**2).sum()) / w.sum() for m, w in zip(means, weights, strict=True)]
    assert bandit.lately_best_arm(1.0) == int(np.argmax(bounds)) == 0
    # Old pulls underflow without harm.
    for _ in range(2000):
        bandit.update(1, 1.0)
    assert bandit.lately_best_arm(1.0) == 0
