"""Makes a template's memory cheap to share with the kernels that are forked from it.

Every page that a kernel writes to is copied, which costs about 3 µs. Loaded by `zygote.py` without
a trace in `sys.modules`; uses the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from types import FrameType
from typing import Any

COLLAPSE = 25  # MADV_COLLAPSE of madvise(2), since Linux 6.1
HUGE = 1 << 21  # bytes of a huge page


# CPython never changes the reference count of an object that has this one: 32 bits.
IMMORTAL = 0xFFFFFFFF
HAS_IMMORTALS = sys.implementation.name == "cpython" and (3, 12) <= sys.version_info < (3, 14)


def prepare() -> None:
    """Call in a template once everything is in memory and frozen, before it forks."""
    if HAS_IMMORTALS and getattr(sys, "_is_gil_enabled", lambda: True)():
        make_immortal()
    if sys.platform == "linux":
        collapse()


def make_immortal() -> None:
    """Make all objects immortal, so that kernels that use them do not write to their counts.

    Nothing is lost by that: a kernel keeps what its template has loaded anyway.
    """
    gc.unfreeze()
    waiting = gc.get_objects()
    gc.freeze()
    seen: set[int] = set()
    count_at = ctypes.c_uint32.from_address
    while waiting:
        more: list[Any] = []
        own = (waiting, more, seen)
        for each in waiting:
            if id(each) in seen or isinstance(each, FrameType) or any(each is one for one in own):
                continue
            seen.add(id(each))
            count_at(id(each)).value = IMMORTAL
            more.extend(one for one in gc.get_referents(each) if id(one) not in seen)
        waiting = more


def collapse() -> None:
    """Move private memory to huge pages, where the system has them: fewer entries to copy."""
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    with contextlib.suppress(OSError), open("/proc/self/maps") as maps:
        for line in maps.read().splitlines():
            place, rights, _, _, inode, *name = line.split()
            if rights != "rw-p" or inode != "0" or (name and name[0] != "[heap]"):
                continue
            begin, end = (int(each, 16) for each in place.split("-"))
            for start in range(-(-begin // HUGE) * HUGE, end - HUGE + 1, HUGE):
                libc.madvise(start, HUGE, COLLAPSE)
