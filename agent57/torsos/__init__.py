"""Torsos, a kind each in a module: from observations to features."""

from __future__ import annotations

from agent57.torsos.torso import TORSOS, Torso, resolve_torso_dtype, set_torso_dtype, shallow, torso_kind

__all__ = ["TORSOS", "Torso", "resolve_torso_dtype", "set_torso_dtype", "shallow", "torso_kind"]
