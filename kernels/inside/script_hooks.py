"""The interpreter's hooks, threads and stack, as a script finds them in a process of its own.

What stands in for a library's function has its name and signature.

Sent to the kernel as text, like `setup.py`; knows nothing about the script's code. A C extension,
and code that follows `f_back` itself, still sees the kernel's threads and frames.
"""

from __future__ import annotations

import bdb
import builtins
import contextlib
import functools
import gc
import inspect
import itertools
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

from IPython.core import pylabtools

from .script_environment import restore_later
from .script_exit import HERE

HOOKS = ("breakpointhook", "displayhook", "excepthook", "unraisablehook")
PROMPTS = ("ps1", "ps2", "ps3")  # their presence means an interactive interpreter
# Names that IPython and debugpy add to the builtins.
ADDED = ("__IPYTHON__", "display", "execfile", "get_ipython", "runfile")


def enter_hooks(undo: contextlib.ExitStack) -> None:
    """Set hooks to what they are at the start of a script, and hide what is the kernel's."""
    restore_later(undo, vars(sys), *HOOKS, *PROMPTS)
    for name in HOOKS:
        setattr(sys, name, getattr(sys, f"__{name}__"))
    restore_later(undo, vars(builtins), *ADDED, "_")
    for name in PROMPTS:
        vars(sys).pop(name, None)
    for name in ADDED:
        vars(builtins).pop(name, None)
    restore_later(undo, sys.modules, "pdb")  # IPython has put its own debugger there
    sys.modules.pop("pdb", None)
    undo.callback(sys.set_asyncgen_hooks, *sys.get_asyncgen_hooks())
    sys.set_asyncgen_hooks(None, None)
    undo.callback(sys.settrace, sys.gettrace())
    leave_matplotlib_passive(undo)
    hide_frozen_objects(undo)
    hide_threads(undo)
    hide_frames(undo)


def leave_matplotlib_passive(undo: contextlib.ExitStack) -> None:
    """Turn off matplotlib's interactive mode, which IPython turns on for cells."""

    matplotlib: Any = sys.modules.get("matplotlib")
    if hasattr(matplotlib, "rcParams"):  # else its import was interrupted
        undo.callback(matplotlib.interactive, matplotlib.is_interactive())
        matplotlib.interactive(False)
    restore_later(undo, vars(pylabtools), "activate_matplotlib")
    activate: Any = pylabtools.activate_matplotlib

    @functools.wraps(activate)
    def activate_passively(backend: str) -> None:  # when a script draws first
        matplotlib: Any = sys.modules["matplotlib"]
        before = matplotlib.is_interactive()
        activate(backend)
        matplotlib.interactive(before)

    pylabtools.activate_matplotlib = activate_passively


def hide_frozen_objects(undo: contextlib.ExitStack) -> None:
    """Keep what a kernel inherits from its template out of garbage collections.

    A script that calls `gc.unfreeze()` in vain would make each of them 10 ms longer.
    """
    restore_later(undo, vars(gc), "freeze", "get_freeze_count", "unfreeze")
    count, freeze, unfreeze = gc.get_freeze_count, gc.freeze, gc.unfreeze
    inherited = functools.cache(count)  # counts one by one, so only for a script that asks

    @functools.wraps(freeze)
    def freeze_more() -> None:
        inherited()
        freeze()

    gc.freeze = freeze_more
    gc.get_freeze_count = functools.wraps(count)(lambda: max(0, count() - inherited()))
    gc.unfreeze = functools.wraps(unfreeze)(lambda: unfreeze() if count() > inherited() else None)


def hide_threads(undo: contextlib.ExitStack) -> None:
    """Let `threading` list only the main thread and those that start from now on."""
    restore_later(undo, vars(threading), "enumerate", "active_count")
    everything, hidden = threading.enumerate, set(threading.enumerate()) - {threading.main_thread()}
    count = threading.active_count

    @functools.wraps(everything)
    def enumerate_scripts() -> list[threading.Thread]:
        return [thread for thread in everything() if thread not in hidden]

    threading.enumerate = enumerate_scripts
    threading.active_count = functools.wraps(count)(lambda: len(enumerate_scripts()))


def hide_frames(undo: contextlib.ExitStack) -> None:
    """End stacks at the script's first frame, for `traceback`, `logging`, `inspect` and `pdb`."""
    restore_later(undo, vars(traceback), "walk_stack")
    restore_later(undo, vars(inspect), "getouterframes")
    undo.callback(setattr, bdb.Bdb, "get_stack", get_stack := bdb.Bdb.get_stack)
    walk_stack, getouterframes = traceback.walk_stack, inspect.getouterframes

    @functools.wraps(walk_stack)
    def walk_scripts_stack(f: FrameType | None) -> Iterator[tuple[FrameType, int]]:
        found = walk_stack(f)
        if f is None:  # it counts the frames above it, so it must be called like this
            return found
        return itertools.takewhile(lambda entry: not is_runners(entry[0]), found)

    @functools.wraps(getouterframes)
    def get_scripts_outer_frames(frame: Any, context: int = 1) -> Any:
        found = getouterframes(frame, context)
        return list(itertools.takewhile(lambda info: not is_runners(info.frame), found))

    @functools.wraps(get_stack)
    def get_scripts_stack(self: Any, frame: Any, tb: Any) -> Any:
        stack, current = get_stack(self, frame, tb)
        ours = [number for number, entry in enumerate(stack) if is_runners(entry[0])]
        first = max(ours) + 1 if ours else 0
        return stack[first:], max(0, current - first)

    traceback.walk_stack = walk_scripts_stack
    inspect.getouterframes = get_scripts_outer_frames
    setattr(bdb.Bdb, "get_stack", get_scripts_stack)  # noqa: B010 (mypy minds parameters' names)


def is_runners(frame: FrameType) -> bool:
    """Return whether a frame belongs to the programs that run scripts."""
    return frame.f_code.co_filename == HERE
