"""Memory for a process that lives long: freed blocks are kept, and what stays is looked at once.

Each flush allocates the same columns again and frees them. By default glibc gives every block over
128 KiB back to the system and takes it anew, and the kernel then zeroes each page at its first
touch: four fifths of the time of a copy. ``docs/performance.md`` has the numbers.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

# From glibc's malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

BLOCK_BYTES_MAX: Final = 16 << 20
"""Blocks up to this size are taken from memory that was freed before."""
KEPT_BYTES_MAX: Final = 64 << 20
"""Free memory beyond this goes back to the system: a burst must not be paid for ever after."""


def keep_freed() -> bool:
    """Keep up to ``KEPT_BYTES_MAX`` of freed memory from now on, for the whole process.

    Returns:
        Whether the C library has such a setting; elsewhere (macOS, musl) nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES_MAX)
    taken = mallopt(_M_MMAP_THRESHOLD, BLOCK_BYTES_MAX)
    return bool(kept and taken)


def settle() -> None:
    """Take all objects that live now out of every later search for garbage.

    A search of the oldest generation stands still for as long as it takes to visit all that was
    loaded at the start, a hundred thousand objects and more, none of which will ever be garbage:
    ten flushes late every few minutes. What is made later is searched as before.
    """
    gc.collect()
    gc.freeze()
