"""What stands in the way of forking a live kernel, and what of it a fork would lack.

Executed in a template, like `setup.py`; knows Linux's /proc, threads and locks, no messages.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from typing import Any

# Libraries whose own threads hang in a forked process, by the beginnings of their files' names.
UNFORKABLE = {
    "libgomp": "OpenMP",
    "libiomp": "OpenMP",
    "libomp": "OpenMP",
    "libtbb": "oneTBB",
    "polars": "polars",
    "_polars": "polars",
    "tokenizers": "tokenizers",
    "libtensorflow": "TensorFlow",
    "_pywrap_tensorflow": "TensorFlow",
    "xla_extension": "JAX",
    "libjax": "JAX",
}
GRAPHICS = ("libcuda.so", "libamdhip64.so", "libze_loader.so")  # whose state can't be forked


def obstacle() -> str:
    """Why this process can't be forked now, as sentences for its user; empty if it can."""
    loaded = loaded_libraries()
    if any(name.startswith(GRAPHICS) for name in loaded):
        return (
            "It uses a graphics processor, whose state can't be forked. Fork a session before it"
            " uses one, and run the rest in both."
        )
    if native_threads():
        for name in loaded:
            for begin, library in UNFORKABLE.items():
                if name.startswith(begin):
                    return (
                        f"{library} has started threads, and would hang in the fork. Fork a session"
                        f" before {library} computes something, and run the rest in both."
                    )
    return ""


def loaded_libraries() -> set[str]:
    """The names of the files of all libraries in memory."""
    with open("/proc/self/maps", "rb") as maps:
        lines = maps.read().decode("utf-8", "replace").splitlines()
    return {os.path.basename(line.split(None, 5)[5]) for line in lines if line.count("/")}


def native_threads() -> int:
    """Number of threads that have never run Python."""
    return len(os.listdir("/proc/self/task")) - len(sys._current_frames())


def lost_threads(own: Collection[str]) -> list[threading.Thread]:
    """The threads that a fork lacks, but for those with the names of our `own`."""
    main = threading.main_thread()
    return [each for each in threading.enumerate() if each is not main and each.name not in own]


def lost_in_fork(names: dict[str, Any], own: Collection[str]) -> list[str]:
    """What a fork of this process lacks besides descriptors, in a few words each.

    Args:
        names: the user's variables.
        own: names of threads that are not the user's.
    """
    threads = lost_threads(own)
    found = [f"thread {each.name}" for each in threads]
    if (native := native_threads()) > 0:
        found.append(f"native threads ({native}): libraries start new ones")
    if threads:
        found += held_locks(names)
    return [*found, *lost_children(), *lost_timers()]


def held_locks(names: dict[str, Any]) -> Iterator[str]:
    """The locks among the variables that are held, by a thread that the fork lacks."""
    kinds = (type(threading.Lock()), type(threading.RLock()))
    for name, value in list(names.items()):
        if type(value) in kinds and repr(value).startswith("<locked"):
            yield f"the thread that holds the lock {name}, which stays locked"


def lost_children() -> Iterator[str]:
    """The child processes, which only this process can wait for."""
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/children") as children:
            for pid in children.read().split():
                with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as name:
                    yield f"child process {pid} ({name.read().strip()})"


def lost_timers() -> Iterator[str]:
    """The timers of `signal.setitimer`, which a fork does not inherit."""
    for name in ("REAL", "VIRTUAL", "PROF"):
        if signal.getitimer(getattr(signal, f"ITIMER_{name}"))[0]:
            yield f"the timer signal.ITIMER_{name}"
