"""A checkpoint that is written while the run goes on: its parts by their owners, its seal by a thread."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from cluster.run.checkpoint import Checkpoints, save_tree
from cluster.runtime.fleet import Fleet

LOOK_SECONDS = 0.05
"""Between two looks while somebody waits for the end."""


class Saving:
    """One checkpoint from its begin to its seal; the state is that of the begin.

    ``gently``: others have work to do meanwhile.

    ``poll`` and ``wait`` raise what prevents it; then nothing of it stays, and older checkpoints are as they were.
    """

    def __init__(
        self, checkpoints: Checkpoints, env_frames: int, fleet: Fleet, tree: dict[str, Any], gently: bool
    ) -> None:
        self._checkpoints, self._env_frames = checkpoints, env_frames
        self._directory = checkpoints.begin(env_frames)
        self._seal: Future[None] | None = None
        try:
            self._parts = fleet.begin_save(self._directory, gently)
            self._own = save_tree(self._directory, "supervisor", tree)
        except BaseException:
            checkpoints.abandon(self._directory)
            raise

    def poll(self) -> bool:
        """Whether the checkpoint is there; never waits."""
        try:
            if self._seal is None:
                written = self._parts.poll()
                if written is None:
                    return False
                pool = ThreadPoolExecutor(1, thread_name_prefix="seal")
                files = {**written, **self._own}
                self._seal = pool.submit(self._checkpoints.seal, self._directory, self._env_frames, files)
                pool.shutdown(wait=False)
            if not self._seal.done():
                return False
            self._seal.result()
        except BaseException:
            self._checkpoints.abandon(self._directory)
            raise
        return True

    def end(self) -> None:
        """Nobody waits for it any more: what is only being sealed gets there, the rest is removed."""
        if self._seal is None:
            self._checkpoints.abandon(self._directory)
        else:
            with contextlib.suppress(OSError):
                self._seal.result()

    def wait(self) -> None:
        """Come back when it is there; the parts say when there is no time left for it."""
        while not self.poll():
            time.sleep(LOOK_SECONDS)
