"""Gridworlds of the project's own: the papers' ablation tasks, small enough to train on within minutes.

Importing this registers them with Gymnasium, once for `gymnasium.make` and once, vectorised, for
`gymnasium.make_vec`. `actors/environments/kinds.py` steps the vectorised ones directly.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from actors.environments.gridworlds.disco_maze import DiscoMaze, VectorDiscoMaze
from actors.environments.gridworlds.near_or_far import NearOrFar, VectorNearOrFar
from actors.environments.gridworlds.random_coin import RandomCoin, VectorRandomCoin
from actors.environments.gridworlds.t_maze import TMaze, VectorTMaze
from actors.environments.gridworlds.vector_gridworld import GridworldEnv


def _register(name: str, environment: type[GridworldEnv], vector: Any, max_episode_steps: int) -> None:
    gymnasium.register(name, environment, vector_entry_point=vector, max_episode_steps=max_episode_steps)


_register("Agent57/RandomCoin-v0", RandomCoin, VectorRandomCoin, 200)
_register("Agent57/DiscoMaze-v0", DiscoMaze, VectorDiscoMaze, 5000)
_register("Agent57/TMaze-v0", TMaze, VectorTMaze, 200)
_register("Agent57/NearOrFar-v0", NearOrFar, VectorNearOrFar, 300)
