"""What TensorBoard reads, written so that a full disk costs what it has no room for and nothing else.

TensorBoard's own writer works on a thread that ends at the first error, after which every call raises.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from replay.whole_files import GrowingFile

_COUNTER = itertools.count()


def event_file(run_dir: Path, purge_step: int | None) -> GrowingFile:
    """The next event file of a run, for `record`s; with ``purge_step`` TensorBoard hides older steps from there on."""
    # TensorBoard reads the files of a run in the order of their names.
    name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_COUNTER)}"
    head = _framed(Event(wall_time=time.time(), file_version="brain.Event:2"))
    if purge_step is not None:
        start = SessionLog(status=SessionLog.START)
        head += _framed(Event(wall_time=time.time(), step=purge_step, session_log=start))
    return GrowingFile(run_dir / name, head)


def record(summary: Summary, step: int) -> bytes:
    """``summary`` of now as a piece of an event file."""
    return _framed(Event(wall_time=time.time(), step=step, summary=summary))


def _framed(event: Event) -> bytes:
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
    return length + next(checksums) + data + next(checksums)
