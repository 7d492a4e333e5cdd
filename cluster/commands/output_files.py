"""Asks whether a result can be written before the work for it is done: not after an hour of episodes."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.run.errors import UserError


def refuse_unwritable_file(path: Path, flag: str) -> None:
    """UserError unless a file can be written at ``path``; what is there already stays as it is."""
    if path.is_dir():
        raise UserError(f"{flag} {path} is a folder: name a file.")
    if not path.resolve().parent.is_dir():
        raise UserError(f"{flag} {path}: its folder does not exist.")
    existed = os.path.lexists(path)
    if existed and not path.is_file():
        raise UserError(f"{flag} {path} is no plain file: name another.")
    try:
        # Opening to append empties nothing.
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be written ({error.strerror}): name another.") from None


def refuse_unwritable_folder(path: Path, flag: str) -> None:
    """UserError unless ``path`` is a folder that can be written into, or could be made."""
    nearest = next(folder for folder in (path.absolute(), *path.absolute().parents) if os.path.lexists(folder))
    if not nearest.is_dir():
        raise UserError(f"{flag} {path} cannot be written ({nearest} is no folder): name another.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {path} cannot be written (no permission for {nearest}): name another.")
