"""Gridworlds of the project's own: the papers' ablation tasks, small enough to train on within minutes.

Importing this registers them with Gymnasium, once for `gymnasium.make` and once, vectorised, for
`gymnasium.make_vec`. `actors/environments/kinds.py` steps the vectorised ones directly.
"""

from __future__ import annotations

import gymnasium

from actors.environments.gridworlds.disco_maze import DiscoMaze, VectorDiscoMaze
from actors.environments.gridworlds.near_or_far import NearOrFar, VectorNearOrFar
from actors.environments.gridworlds.random_coin import RandomCoin, VectorRandomCoin
from actors.environments.gridworlds.t_maze import TMaze, VectorTMaze

gymnasium.register("Agent57/RandomCoin-v0", RandomCoin, vector_entry_point=VectorRandomCoin, max_episode_steps=200)
gymnasium.register("Agent57/DiscoMaze-v0", DiscoMaze, vector_entry_point=VectorDiscoMaze, max_episode_steps=5000)
gymnasium.register("Agent57/TMaze-v0", TMaze, vector_entry_point=VectorTMaze, max_episode_steps=200)
gymnasium.register("Agent57/NearOrFar-v0", NearOrFar, vector_entry_point=VectorNearOrFar, max_episode_steps=300)
