"""The score table: complete, on real games, and the right way up."""

from __future__ import annotations

import pytest
from ale_py import roms

from actors.environments.atari.scores import (
    RANDOM_AND_HUMAN_SCORES,
    capped_human_normalised_score,
    game_of,
    human_normalised_score,
)


def test_table_holds_57_games_that_exist() -> None:
    assert len(RANDOM_AND_HUMAN_SCORES) == 57
    assert set(RANDOM_AND_HUMAN_SCORES) <= set(roms.get_all_rom_ids())


def test_humans_beat_random_play_everywhere() -> None:
    assert all(random < human for random, human in RANDOM_AND_HUMAN_SCORES.values())


def test_zero_is_random_and_one_is_human() -> None:
    for game, (random, human) in RANDOM_AND_HUMAN_SCORES.items():
        assert human_normalised_score(game, random) == 0
        assert human_normalised_score(game, human) == 1
    # Pong: (21 - -20.7) / (14.6 - -20.7)
    assert human_normalised_score("pong", 21) == pytest.approx(41.7 / 35.3)


def test_capped_scores_by_hand() -> None:
    # Breakout: random 1.7, human 30.5.
    assert capped_human_normalised_score("breakout", 16.1) == pytest.approx(14.4 / 28.8)
    assert human_normalised_score("breakout", 400.0) == pytest.approx(398.3 / 28.8)
    assert capped_human_normalised_score("breakout", 400.0) == 1.0
    assert human_normalised_score("breakout", 0.0) == pytest.approx(-1.7 / 28.8)
    assert capped_human_normalised_score("breakout", 0.0) == 0.0
    # A game of negative scores. Skiing: random -17098.1, human -4336.9.
    assert human_normalised_score("skiing", -10717.5) == pytest.approx(0.5)


def test_games_are_found_by_environment_id() -> None:
    assert game_of("ALE/MontezumaRevenge-v5") == "montezuma_revenge"
    assert game_of("ALE/Tetris-v5") is None
    assert game_of("CartPole-v1") is None


def test_every_game_has_an_environment_id() -> None:
    names = {game: "".join(part.capitalize() for part in game.split("_")) for game in RANDOM_AND_HUMAN_SCORES}
    assert {game_of(f"ALE/{name}-v5") for name in names.values()} == set(RANDOM_AND_HUMAN_SCORES)
