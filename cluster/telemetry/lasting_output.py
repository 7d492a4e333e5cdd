"""Output that outlives its reader: ``train ... | head``, a dead tee, a closed terminal or a full disk cost lines only.

`launch.py` puts it around stdout and stderr. Without it the first line after the reader's end would be an exception in
the middle of training.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

GONE = (errno.EPIPE, errno.EIO, errno.ENXIO, errno.ECONNRESET)
"""What a write meets when nobody will ever read it."""


class LastingStream:
    """A text stream that drops what cannot be written and escapes what its encoding does not have.

    ``lost``: the reader has gone; from then on everything goes nowhere.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.lost = False

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        if error.errno in GONE:
            self.lost = True
            self.silence()

    def silence(self) -> None:
        """Let the stream lead nowhere, with what is still buffered in it: else Python complains when it ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_output() -> Iterator[None]:
    """stdout and stderr as `LastingStream` meanwhile; at the end they are flushed, whatever becomes of that."""
    before = sys.stdout, sys.stderr
    lasting = [LastingStream(stream) if stream is not None else None for stream in before]
    sys.stdout, sys.stderr = lasting
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in lasting:
            if stream is not None:
                _end(stream)


def _end(stream: LastingStream) -> None:
    try:
        stream._stream.flush()
    except (OSError, ValueError):
        stream.silence()


def output_lost() -> bool:
    """Whether the reader of stdout has gone."""
    return bool(getattr(sys.stdout, "lost", False))
