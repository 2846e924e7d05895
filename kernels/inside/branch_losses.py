"""What stands in the way of forking a live kernel, and what of it a fork would lack.

Executed in a template, like `setup.py`; knows Linux's /proc, threads and locks, no messages.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import sys
import threading
from collections.abc import Collection, Iterator
from time import sleep  # cells replace those of the module
from typing import Any

# Libraries whose own threads hang in a forked process, by the beginnings of their files' names.
OPENMP = "OpenMP (of scikit-learn, PyTorch and others)"
UNFORKABLE = {
    "libgomp": OPENMP,
    "libiomp": OPENMP,
    "libomp": OPENMP,
    "libtbb": "oneTBB",
    "polars": "polars",
    "_polars": "polars",
    "tokenizers": "tokenizers",
    "libtensorflow": "TensorFlow",
    "_pywrap_tensorflow": "TensorFlow",
    "xla_extension": "JAX",
    "libjax": "JAX",
}
# Libraries whose threads change nothing between two cells, and are started again in a fork.
HARMLESS = (
    "libopenblas",
    "libscipy_openblas",
    "libmkl",
    "libblis",
    "libarrow",
    "duckdb",
    "_duckdb",
)
GRAPHICS = ("libcuda.so", "libamdhip64.so", "libze_loader.so")  # whose state can't be forked
STACK = 16_384  # bytes of a waiting thread's stack that are searched for whose code it runs
LOOKS, LOOK_INTERVAL = 10, 0.02  # at a thread that runs, and the seconds between them
ADDRESS = struct.calcsize("P")
Loaded = list[tuple[int, int, str]]  # where a file is in memory, and its name


def obstacle() -> str:
    """Why this process can't be forked now, as a sentence for its user; empty if it can."""
    loaded = loaded_libraries()
    if any(name.startswith(GRAPHICS) for _, _, name in loaded):
        return "It uses a graphics processor, whose state can't be forked."
    if native_threads() and (library := library_with_threads(loaded)):
        return f"{library} has started threads, and would hang in the fork."
    return ""


def loaded_libraries() -> Loaded:
    """The code of all libraries in memory."""
    found = []
    with open("/proc/self/maps", "rb") as maps:
        for line in maps.read().decode("utf-8", "replace").splitlines():
            place, rights, _, _, _, *path = line.split(None, 5)
            if path and "x" in rights:
                begin, _, end = place.partition("-")
                found.append((int(begin, 16), int(end, 16), os.path.basename(path[0])))
    return found


def library_with_threads(loaded: Loaded) -> str:
    """Which of the libraries that can't be forked has threads, as people call it; or empty."""
    unforkable = [
        (begin, end, known)
        for begin, end, file in loaded
        for name, known in UNFORKABLE.items()
        if file.startswith(name)
    ]
    if not unforkable:
        return ""
    for task in native_tasks():
        if (stack := addresses_on_stack(task)) is None:
            return unforkable[0][2]
        for begin, end, known in unforkable:
            if any(begin <= address < end for address in stack):
                return known
    return ""


def native_tasks() -> list[int]:
    """The threads that Python's `threading` does not know."""
    python = {thread.native_id for thread in threading.enumerate()}
    python.add(os.getpid())  # whose number the main thread has not learnt after a fork
    return [task for task in map(int, os.listdir("/proc/self/task")) if task not in python]


def unknown_threads() -> Iterator[str]:
    """The native threads that might change something between two cells, as far as is known."""
    if native_threads() <= 0:
        return
    harmless = [place for *place, file in loaded_libraries() if file.startswith(HARMLESS)]
    for task in native_tasks():
        stack = addresses_on_stack(task)
        if stack == ():
            continue
        if not any(begin <= address < end for address in stack or () for begin, end in harmless):
            yield "a native thread"
            return


def addresses_on_stack(task: int) -> tuple[int, ...] | None:
    """What may be addresses of the code that a waiting thread runs.

    None if it goes on running, or may not be looked at; empty if it has ended.
    """
    for _ in range(LOOKS):
        try:
            with open(f"/proc/self/task/{task}/syscall") as state:
                _, *registers = state.read().split()
            if registers:
                pointer, place = (int(each, 16) for each in registers[-2:])
                with open("/proc/self/mem", "rb", buffering=0) as memory:
                    memory.seek(pointer)
                    stack = memory.read(STACK)
                return place, *struct.unpack_from(f"{len(stack) // ADDRESS}P", stack)
        except FileNotFoundError:
            return ()
        except (OSError, ValueError):
            return None
        sleep(LOOK_INTERVAL)  # libraries let their threads run on for a while
    return None


def native_threads() -> int:
    """Number of threads that have never run Python."""
    return len(os.listdir("/proc/self/task")) - len(sys._current_frames())


def lost_threads(own: Collection[str]) -> list[threading.Thread]:
    """The threads that a fork lacks, but for those with the names of our `own`."""
    main = threading.main_thread()
    return [each for each in threading.enumerate() if each is not main and each.name not in own]


def unlisted_threads() -> Iterator[str]:
    """The threads of Python that `threading` does not know, started by `_thread`."""
    listed = {thread.ident for thread in threading.enumerate()}
    for ident in sys._current_frames().keys() - listed:
        yield f"thread {ident}"


def lost_in_fork(names: dict[str, Any], own: Collection[str]) -> list[str]:
    """What a fork of this process lacks besides descriptors, in a few words each.

    Args:
        names: the user's variables.
        own: names of threads that are not the user's.
    """
    threads = lost_threads(own)
    found = [f"thread {each.name}" for each in threads] + [*unlisted_threads()]
    if (native := native_threads()) > 0:
        found.append(f"native threads ({native}): libraries start new ones")
    if threads:
        found += held_locks(names)
    return [*found, *lost_children(), *lost_timers()]


def unforked_memory() -> Iterator[str]:
    """The memory that a fork lacks, or has without its content, by madvise(2).

    Takes some 25 ms per GB of small pages.
    """
    with open("/proc/self/smaps", "rb") as smaps:
        text = smaps.read()
    for flag, advice in (b" dc ", "MADV_DONTFORK"), (b" wf ", "MADV_WIPEONFORK"):
        lines = text.splitlines() if flag in text else ()  # mostly in neither
        # What the system may drop at any time (dp) is no state: glibc's for random numbers.
        if any(ln.startswith(b"VmFlags:") and flag in ln and b" dp" not in ln for ln in lines):
            yield f"memory with {advice}"


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
