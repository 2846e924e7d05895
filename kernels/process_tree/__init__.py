"""The processes that a kernel has started: finds them, measures their memory, ends them.

Each carries a mark in its environment, so that none is left behind when the server is killed.
"""

from .family import Family
from .memory import memory_alike, memory_of
from .memory_watch import MemoryWatch
from .ports import Listener, listeners
from .reaper import (
    FILE_LOCKS,
    MARK,
    Reaper,
    mark_below,
    mark_number,
    mark_process,
    marked,
    marking,
    new_mark,
)
from .shared_memory import remove

__all__ = [
    "FILE_LOCKS",
    "MARK",
    "Family",
    "Listener",
    "MemoryWatch",
    "Reaper",
    "listeners",
    "mark_below",
    "mark_number",
    "mark_process",
    "marked",
    "marking",
    "memory_alike",
    "memory_of",
    "new_mark",
    "remove",
]
