"""The corridor with a near and a far reward, and the discount between preferring one and the other."""

from __future__ import annotations

import numpy as np
import pytest

from actors.environments.gridworlds.near_or_far import VectorNearOrFar, indifference_discount


@pytest.mark.parametrize(("action", "steps", "reward"), [(0, 3, 1.0), (1, 30, 2.0)])
def test_both_ends_of_the_default_corridor(action: int, steps: int, reward: float) -> None:
    env = VectorNearOrFar(1)
    observations, _ = env.reset()
    assert observations.dtype == np.float32
    assert observations[0].tolist() == [float(cell == 3) for cell in range(34)]
    for step in range(1, steps + 1):
        observations, rewards, terminated, truncated, infos = env.step(np.array([action]))
        assert observations[0].argmax() == 3 + (step if action == 1 else -step)
        assert (rewards[0], terminated[0]) == ((reward, True) if step == steps else (0.0, False))
        assert (truncated[0], infos["revisit"][0]) == (False, False)


def start_values(near: int, far: int, far_reward: float, discount: float) -> tuple[float, float]:
    """Discounted returns of walking straight to the near and to the far end, played out."""
    env = VectorNearOrFar(2, near=near, far=far, far_reward=far_reward)
    env.reset()
    values, playing = np.zeros(2), np.ones(2, np.bool_)
    for step in range(far):
        _, rewards, terminated, _, _ = env.step(np.array([0, 1]))
        values += playing * rewards * discount**step
        playing &= ~terminated
    return float(values[0]), float(values[1])


@pytest.mark.parametrize(("near", "far", "far_reward"), [(3, 30, 2.0), (1, 2, 10.0), (5, 50, 1.1)])
def test_indifference_discount_divides_near_from_far(near: int, far: int, far_reward: float) -> None:
    discount = indifference_discount(near, far, far_reward)
    at_near, at_far = start_values(near, far, far_reward, discount)
    assert at_near == pytest.approx(at_far)
    at_near, at_far = start_values(near, far, far_reward, discount - 0.001)
    assert at_near > at_far
    at_near, at_far = start_values(near, far, far_reward, discount + 0.001)
    assert at_near < at_far
