"""The second path to Atari games plays the same games as the first, and what only it can do."""

from __future__ import annotations

import ale_py
import numpy as np
import pytest
from ale_py import roms

from actors.environments.atari.area_resize import AreaResize
from actors.environments.atari.emulator import EmulatorLanes
from actors.environments.contract import EnvironmentConfig, LaneEnvironments
from actors.environments.kinds import make_lanes
from actors.environments.supported_spaces import UnsupportedEnvironment

LANES = 2
GAMES = ("Pong", "Breakout", "MontezumaRevenge", "Seaquest")
SETTINGS = {
    "as in the paper": EnvironmentConfig(max_frames=200),
    "sticky": EnvironmentConfig(sticky_actions=0.25, max_frames=200),
    "lost in the game": EnvironmentConfig(full_action_set=False, max_frames=800),
    "an end within a step": EnvironmentConfig(frame_skip=3, max_frames=121, full_action_set=False),
    "every frame, no no-ops": EnvironmentConfig(frame_skip=1, noop_max=0, max_frames=40, full_action_set=False),
    "two frames, one no-op": EnvironmentConfig(frame_skip=2, noop_max=1, max_frames=120),
    "every pixel": EnvironmentConfig(screen="210x160", max_frames=200),
    "a slow eye": EnvironmentConfig(frame_skip=7, noop_max=100, max_frames=500, sticky_actions=0.5),
}


def play(lanes: object, steps: int, seed: int) -> list[tuple[np.ndarray, ...]]:
    """Everything that a random player sees; one lane begins anew half-way, from a seed, while the other plays on."""
    everywhere, rng = np.ones(LANES, np.bool_), np.random.default_rng(seed)
    seen: list[tuple[np.ndarray, ...]] = [(lanes.reset(np.array([seed, 2**31 - 1 - seed]), everywhere).copy(),)]
    for step in range(steps):
        result = lanes.step(rng.integers(lanes.spec.num_actions, size=LANES))
        seen.append((result.observations, result.rewards, result.terminated, result.truncated))
        if step == steps // 2:
            second = np.array([False, True])
            seen.append((lanes.reset(np.array([7]), second)[second],))
    lanes.close()
    return seen


@pytest.mark.parametrize(
    ("game", "setting"),
    [
        ("Pong", "sticky"),
        ("Breakout", "an end within a step"),
        ("MontezumaRevenge", "as in the paper"),
        ("MontezumaRevenge", "every pixel"),
        ("Seaquest", "every frame, no no-ops"),
    ],
)
def test_both_paths_play_the_same_game_to_the_last_bit(game: str, setting: str) -> None:
    same_games(f"ALE/{game}-v5", SETTINGS[setting], steps=110)


@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_both_paths_agree_whatever_game_and_settings(game: str, setting: str) -> None:
    same_games(f"ALE/{game}-v5", SETTINGS[setting], steps=300)


@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("sticky_actions", [0.0, 0.25])
def test_both_paths_agree_over_whole_games(game: str, sticky_actions: float) -> None:
    config = EnvironmentConfig(sticky_actions=sticky_actions, full_action_set=False, max_frames=6000)
    same_games(f"ALE/{game}-v5", config, steps=3200)


def same_games(env_id: str, config: EnvironmentConfig, steps: int) -> None:
    first = make_lanes(env_id, LANES, config, num_threads=1)
    second = make_lanes(env_id, LANES, config, num_threads=1, with_ram=True)
    assert isinstance(second, EmulatorLanes)
    assert first.spec == second.spec
    ends = 0
    for step, (one, other) in enumerate(zip(play(first, steps, 3), play(second, steps, 3), strict=True)):
        for a, b in zip(one, other, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b, err_msg=f"step {step}")
        ends += int(np.sum(one[2:]))
    assert ends >= 1


def test_episodes_can_be_saved_and_played_again_and_are_those_of_the_first_path() -> None:
    config, steps = EnvironmentConfig(max_frames=60, sticky_actions=0.25), 25
    first, second, third = (
        LaneEnvironments("ALE/Pong-v5", 1, 5, config, reproducible=True, with_ram=ram) for ram in (False, True, True)
    )
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(first.reset(), second.reset())
    for step in range(steps):
        if step == 18:
            third.load_state_dict(second.state_dict())
        actions = rng.integers(18, size=1)
        one, other = first.step(actions), second.step(actions)
        np.testing.assert_array_equal(one.observations, other.observations)
    third.load_state_dict(second.state_dict())
    np.testing.assert_array_equal(second.step(actions).observations, third.step(actions).observations)
    np.testing.assert_array_equal(second.ram(), third.ram())


def test_ram_tells_how_far_a_game_has_come() -> None:
    """Montezuma's Revenge begins in room 1 (byte 3) with five lives to spare (byte 58); Pong counts points."""
    lanes = LaneEnvironments("ALE/MontezumaRevenge-v5", 2, 0, EnvironmentConfig(), with_ram=True)
    lanes.reset()
    ram = lanes.ram()
    assert ram.shape == (2, 128)
    assert ram.dtype == np.uint8
    assert ram[:, 3].tolist() == [1, 1]
    assert ram[:, 58].tolist() == [5, 5]
    lanes.close()


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "CartPole-v1"])
def test_ram_has_to_be_asked_for(env_id: str) -> None:
    lanes = LaneEnvironments(env_id, 1, 0, EnvironmentConfig())
    with pytest.raises(ValueError, match="with_ram=True"):
        lanes.ram()
    lanes.close()


def test_other_environments_have_no_ram() -> None:
    with pytest.raises(UnsupportedEnvironment, match="no Atari game"):
        LaneEnvironments("CartPole-v1", 1, 0, EnvironmentConfig(), with_ram=True)


def test_whole_screens_are_what_the_emulator_shows() -> None:
    """With one frame per action, no maximum of two and no chance: grey, pixel by pixel."""
    config = EnvironmentConfig(screen="210x160", frame_skip=1, noop_max=0, full_action_set=True)
    lanes = make_lanes("ALE/Seaquest-v5", 1, config, num_threads=1)
    assert lanes.spec.observation_shape == (1, 210, 160)
    lanes.reset(np.array([3]), np.ones(1, np.bool_))
    ale = ale_py.ALEInterface()
    ale.setInt("random_seed", 3)
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(roms.get_rom_path("seaquest"))
    legal = ale.getLegalActionSet()
    seen, shown = [], []
    for action in np.random.default_rng(0).integers(len(legal), size=60):
        ale.act(legal[action])
        seen.append(lanes.step(np.array([action])).observations[0, 0])
        shown.append(ale.getScreenGrayscale())
    lanes.close()
    np.testing.assert_array_equal(np.stack(seen), np.stack(shown))
    assert np.ptp(np.stack(shown), axis=0).max() > 50, "nothing moved"


def test_mode_and_difficulty_change_the_game_at_every_seed() -> None:
    """Freeway's modes differ in traffic."""
    plain = first_pictures(EnvironmentConfig(noop_max=0))
    other = first_pictures(EnvironmentConfig(noop_max=0, mode=3))
    assert (plain != other).any(axis=(1, 2)).all()


def first_pictures(config: EnvironmentConfig) -> np.ndarray:
    """[2, 84, 84] of Freeway after 30 steps of waiting, from two seeds one after the other."""
    lanes = make_lanes("ALE/Freeway-v5", 1, config, num_threads=1)
    seen = []
    for seed in (1, 2):
        lanes.reset(np.array([seed]), np.ones(1, np.bool_))
        for _ in range(30):
            result = lanes.step(np.zeros(1, np.int64))
        seen.append(result.observations[0, 0])
    lanes.close()
    return np.stack(seen)


@pytest.mark.parametrize(("what", "value", "known"), [("mode", 8, "0, 1, 2, 3, 4, 5, 6, 7"), ("difficulty", 2, "0, 1")])
def test_what_a_game_does_not_have_is_refused_with_what_it_has(what: str, value: int, known: str) -> None:
    sentence = f"ALE/Freeway-v5 has no {what} {value}: --environment.{what} is one of {known}$"
    with pytest.raises(UnsupportedEnvironment, match=sentence):
        make_lanes("ALE/Freeway-v5", 1, EnvironmentConfig(**{what: value}), num_threads=1)


def test_pictures_are_those_of_the_first_path() -> None:
    config = EnvironmentConfig(full_action_set=False, sticky_actions=0.25)
    first = make_lanes("ALE/Seaquest-v5", 1, config, num_threads=1, render=True)
    second = make_lanes("ALE/Seaquest-v5", 1, config, num_threads=1, render=True, with_ram=True)
    assert first.action_names == second.action_names
    for lanes in (first, second):
        lanes.reset(np.array([4]), np.ones(1, np.bool_))
    for action in np.random.default_rng(0).integers(first.spec.num_actions, size=30):
        for lanes in (first, second):
            lanes.step(np.array([action]))
        np.testing.assert_array_equal(first.pictures(), second.pictures())


def test_a_coarse_grid_is_averaged_by_area() -> None:
    """Each target cell covers 1.5 x 2 source cells."""
    shrunk = AreaResize((3, 4), 2, 2)(np.array([[0, 4, 8, 8], [6, 6, 0, 0], [30, 30, 90, 90]], np.uint8))
    assert shrunk.tolist() == [[round((4 / 2 + 6 / 2) / 1.5), round(8 / 1.5)], [round((30 + 6 / 2) / 1.5), 60]]
