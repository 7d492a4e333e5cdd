"""Lets a process keep the memory that it frees, instead of handing it back to the system and asking again."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # Parameters of mallopt(3).


def keep_freed_memory() -> None:
    """From now on, glibc's allocator keeps what is freed; elsewhere nothing happens.

    Every update and every acting step frees and takes the same large tensors. By default each of them is new memory
    to the system, which must clear it page by page: a twentieth of an update of preset ``laptop``.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError, OSError):
        return
    # The second is the most that older versions accept.
    any(mallopt(_MMAP_THRESHOLD, largest) for largest in (1 << 30, 1 << 25))
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_TOP_PAD, 64 << 20)
