"""The end of a script, as an interpreter's: errors reported, threads joined, exit handlers run.

Sent to the kernel as text, like `setup.py`; knows nothing about how the script ran.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
import threading
import traceback
import weakref
from types import TracebackType
from typing import Any

from .script_environment import is_beneath, restore_later

# The file name these texts are compiled under; their frames are removed from tracebacks.
HERE = sys._getframe().f_code.co_filename

Handlers = list[tuple[Any, tuple[Any, ...], dict[str, Any]]]


class ScriptExit:
    """Ends what the script starts from now on, once its main module is over."""

    def __init__(self, undo: contextlib.ExitStack, folder: str) -> None:
        self.handlers = collect_exit_handlers(undo, folder)
        self.known_threads = set(threading.enumerate())
        self.known_finalizers = set(weakref.finalize._registry)  # type: ignore[attr-defined]
        self.known_children = set(children())

    def run(self) -> None:
        """Do what an interpreter does then, in the same order."""
        self._join_threads()
        while self.handlers:
            function, args, kwargs = self.handlers.pop()
            try:
                function(*args, **kwargs)
            except BaseException as error:
                report_ignored(function, error)
        self._run_finalizers()
        self._join_children()
        for reference in list(getattr(logging, "_handlerList", [])):
            if (handler := reference()) is not None:
                with contextlib.suppress(OSError, ValueError):
                    handler.flush()
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()  # type: ignore[union-attr]

    def _join_threads(self) -> None:
        try:
            for name, flag in (
                ("concurrent.futures.thread", "_shutdown"),
                ("concurrent.futures.process", "_global_shutdown"),
            ):
                if module := sys.modules.get(name):
                    module._python_exit()
                    setattr(module, flag, False)  # later cells may open new pools
            while started := [
                thread
                for thread in threading.enumerate()
                if not thread.daemon and thread not in self.known_threads
            ]:
                started[0].join()
        except KeyboardInterrupt:
            print("Interrupted while waiting for the script's threads.", file=sys.stderr)

    def _run_finalizers(self) -> None:
        registry = weakref.finalize._registry  # type: ignore[attr-defined]
        fresh = [f for f in registry if f not in self.known_finalizers and f.atexit]
        for finalizer in sorted(fresh, key=lambda f: registry[f].index, reverse=True):
            try:
                finalizer()
            except BaseException as error:
                call_excepthook(error, error.__traceback__)

    def _join_children(self) -> None:
        if module := sys.modules.get("multiprocessing.util"):
            # Known children belong to earlier cells or, on another machine, the kernel's launcher.
            others = children() & self.known_children
            children().difference_update(others)
            try:
                module._exit_function()
            finally:
                children().update(others)
                vars(module)["_exiting"] = False


def collect_exit_handlers(undo: contextlib.ExitStack, folder: str) -> Handlers:
    """Intercept `atexit.register` calls by the script and its neighbouring modules.

    Libraries' handlers still run at the process's exit, as the libraries stay in use.
    """
    handlers: Handlers = []
    register, unregister = atexit.register, atexit.unregister

    def register_for_script(function: Any, /, *args: Any, **kwargs: Any) -> Any:
        caller = sys._getframe(1).f_globals
        if caller.get("__name__") == "__main__" or is_beneath(caller.get("__file__"), folder):
            handlers.append((function, args, kwargs))
            return function
        return register(function, *args, **kwargs)

    def unregister_for_script(function: Any) -> None:
        handlers[:] = [entry for entry in handlers if entry[0] != function]
        unregister(function)

    restore_later(undo, vars(atexit), "register", "unregister")
    atexit.register, atexit.unregister = register_for_script, unregister_for_script
    return handlers


def children() -> set[Any]:
    """Return the mutable set of child processes that `multiprocessing` joins at exit."""
    module = sys.modules.get("multiprocessing.process")
    return vars(module)["_children"] if module is not None else set()


def report_ignored(function: Any, error: BaseException) -> None:
    """Report an exception in an exit handler, which does not change the exit code."""
    try:
        where = repr(function)
    except Exception:
        where = "<object repr() failed>"
    # CPython 3.13 moved the colon.
    words = f"callback: {where}" if sys.version_info < (3, 13) else f"callback {where}:"
    print(f"Exception ignored in atexit {words}", file=sys.stderr)
    traceback.print_exception(type(error), error, without_ours(error), file=sys.stderr)


def call_excepthook(error: BaseException, frames: TracebackType | None) -> None:
    """Call `sys.excepthook`; if the hook itself fails, print what CPython prints."""
    try:
        sys.excepthook(type(error), error, frames)
    except BaseException as second:
        print("Error in sys.excepthook:", file=sys.stderr)
        second.__traceback__ = without_ours(second)
        second.__context__ = None if second.__context__ is error else second.__context__
        sys.__excepthook__(type(second), second, second.__traceback__)
        print("\nOriginal exception was:", file=sys.stderr)
        sys.__excepthook__(type(error), error, frames)


def name_of(thing: Any) -> str:
    """Return the name of an object's class, whatever its metaclass claims."""
    return str(type.__dict__["__name__"].__get__(type(thing)))


def without_ours(error: BaseException) -> TracebackType | None:
    """Return an exception's traceback, starting at the first frame that is not ours."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == HERE:
        frames = frames.tb_next
    return frames
