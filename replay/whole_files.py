"""Writing files so that a full disk, a kill or a power cut leaves no half of one.

`write_whole` is for files that are rewritten: configurations, reports, tables, policies.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write or replace the file ``path``: on any error (OSError) what was there before is still there, whole.

    Text is UTF-8. A link is followed; a pipe or a device, such as /dev/stdout, is written to as it is.
    """
    target = Path(os.path.realpath(path))
    data = content.encode() if isinstance(content, str) else content
    if target.exists() and not target.is_file():
        with open(target, "wb") as file:
            file.write(data)
        return
    part = target.with_name(f".part-{secrets.token_hex(4)}")
    try:
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
        sync(target.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until a file's content, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
