"""The end of a script, as an interpreter's: errors reported, threads joined, exit handlers run.

Sent to the kernel as text, like `setup.py`; knows nothing about how the script ran.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import sys
import threading
import traceback
import weakref
from types import FrameType, TracebackType
from typing import Any

from .asked_input import end_at_script
from .script_environment import is_beneath, restore_later
from .script_registries import (
    children,
    cleanups,
    function_of,
    library_of,
    log_handlers,
    tables_of,
    threading_calls,
    without,
)

# The file name these texts are compiled under; their frames are removed from tracebacks.
HERE = sys._getframe().f_code.co_filename

Handlers = list[tuple[Any, tuple[Any, ...], dict[str, Any]]]


class ScriptExit:
    """Ends what the script starts from now on, once its main module is over.

    Everything else stays as it is: threads, pools and child processes of earlier cells, and what
    libraries have registered for the end of the process.
    """

    def __init__(self, undo: contextlib.ExitStack, folders: list[str]) -> None:
        self.folders = folders  # of its own modules
        # As in an interpreter that has imported these two first, they come last.
        self.handlers: Handlers = [(self._end_logging, (), {}), (self._join_children, (), {})]
        self.ended = threading.Event()  # set once the main thread counts as ended
        self.known_calls = list(threading_calls())
        self.known_threads = set(threading.enumerate())
        self.known_children = set(children())
        self.known_finalizers = set(weakref.finalize._registry)  # type: ignore[attr-defined]
        self.known_cleanups = set(cleanups())
        self.known_log_handlers = list(log_handlers())
        # Out of sight also of the script's child processes, which end pools as well.
        earlier = [
            without(self.known_threads, each)
            for call in self.known_calls
            for each in tables_of(call)
        ]
        self.shares_pools = any([undo.enter_context(each) for each in earlier])
        self._collect_exit_handlers(undo)
        self._let_others_join_main_thread(undo)

    def run(self) -> bool:
        """Do what an interpreter does then, in the same order; returns whether it could flush."""
        with contextlib.ExitStack() as undo:
            self._end_threads(undo)
            self.run_handlers()
        flushed = flush(sys.stdout, report=True) & flush(sys.stderr)
        for stream in (sys.__stdout__, sys.__stderr__):
            flush(stream)
        return flushed

    # -- threads

    def _end_threads(self, undo: contextlib.ExitStack) -> None:
        """Call what `threading` has registered, then wait for threads, as its `_shutdown` does."""
        restore_later(undo, vars(threading), "_SHUTTING_DOWN")
        threading._SHUTTING_DOWN = True  # type: ignore[attr-defined]
        try:
            for call in reversed(list(threading_calls())):
                self._end_library(call, undo)
            self.ended.set()
            while started := [
                thread
                for thread in threading.enumerate()
                if not thread.daemon and thread not in self.known_threads
            ]:
                started[0].join()
        except KeyboardInterrupt:
            print("Interrupted while waiting for the script's threads.", file=sys.stderr)
        except BaseException as error:
            print(f"Exception ignored in: {threading!r}", file=sys.stderr)
            print_error(error)
        finally:
            self.ended.set()

    def _end_library(self, call: Any, undo: contextlib.ExitStack) -> None:
        """Make one call that `threading` has registered, for the threads of this script.

        It shuts down what its library has started, as `concurrent.futures` does. Its flags are
        reset afterwards, since later cells may use the library. One registered before the script
        is for earlier threads, unless its library has a table of threads: the script's, by now.
        """
        if call in self.known_calls and not tables_of(call):
            return
        library = library_of(function_of(call))
        if call not in self.known_calls and (not library or self._is_own(library)):
            threading_calls().remove(call)
        flags = [name for name, value in library.items() if type(value) is bool]
        with contextlib.ExitStack() as reset:
            # Pools of earlier cells should not find that everything is being shut down.
            restore_later(reset if self.shares_pools else undo, library, *flags)
            call()

    def _let_others_join_main_thread(self, undo: contextlib.ExitStack) -> None:
        """Let a thread wait for the end of the script's main module through `main_thread()`."""
        main = threading.main_thread()
        restore_later(undo, vars(main), "is_alive", "join")
        join_itself = main.join

        def join(timeout: float | None = None) -> None:
            if threading.current_thread() is main:
                join_itself(timeout)  # which raises
            self.ended.wait(timeout)

        main.join = join  # type: ignore[method-assign]
        main.is_alive = lambda: not self.ended.is_set()  # type: ignore[method-assign]

    # -- exit handlers

    def _collect_exit_handlers(self, undo: contextlib.ExitStack) -> None:
        """Let `atexit` be the script's own.

        What libraries register when they are imported still runs at the process's exit, as the
        libraries stay in use. What they register later is for something the script has made.
        """
        register: Any = atexit.register
        unregister = atexit.unregister
        finalize: Any = weakref.finalize
        run_finalizers = finalize._exitfunc

        def register_for_script(function: Any, /, *args: Any, **kwargs: Any) -> Any:
            if function == run_finalizers:  # registers itself with the first finalizer
                self.handlers.append((self._run_finalizers, (), {}))
                return function
            if not self._is_scripts(sys._getframe(1)):
                return register(function, *args, **kwargs)
            if not callable(function):
                raise TypeError("the first argument must be callable")
            library = library_of(function)
            if library and not self._is_own(library):
                register(function, *args, **kwargs)
            self.handlers.append((function, args, kwargs))
            return function

        def unregister_for_script(function: Any) -> None:
            self.handlers[:] = [entry for entry in self.handlers if entry[0] != function]
            unregister(function)

        if not finalize._registered_with_atexit:
            register(run_finalizers)
        finalize._registered_with_atexit = False
        undo.callback(setattr, finalize, "_registered_with_atexit", True)
        restore_later(undo, vars(atexit), *(name for name in dir(atexit) if name[:2] != "__"))
        atexit.register = functools.wraps(register)(register_for_script)
        atexit.unregister = functools.wraps(unregister)(unregister_for_script)
        atexit._run_exitfuncs = self.run_handlers
        atexit._clear = self.handlers.clear
        atexit._ncallbacks = lambda: len(self.handlers)

    def run_handlers(self) -> None:
        """Call the exit handlers, the last one first; those that they register are dropped."""
        for handler in reversed(list(self.handlers)):
            if handler in self.handlers:
                function, args, kwargs = handler
                try:
                    function(*args, **kwargs)
                except BaseException as error:
                    report_ignored(function, error)
        self.handlers.clear()

    def _is_scripts(self, frame: FrameType | None) -> bool:
        """Return whether a frame was called by the script and not by the import of a library."""
        while frame is not None:
            if self._is_own(frame.f_globals):
                return True
            if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
                return False
            frame = frame.f_back
        return False

    def _is_own(self, namespace: dict[str, Any]) -> bool:
        """Return whether a module is the script, or one of its neighbours."""
        if namespace.get("__name__") == "__main__":
            return True
        return any(is_beneath(namespace.get("__file__"), folder) for folder in self.folders)

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
            with without(self.known_children, children()), without(self.known_cleanups, cleanups()):
                try:
                    module._exit_function()
                finally:
                    vars(module)["_exiting"] = False

    def _end_logging(self) -> None:
        fresh = [each for each in log_handlers() if each not in self.known_log_handlers]
        logging.shutdown(fresh)
        for reference in self.known_log_handlers:
            if (handler := reference()) is not None:
                with contextlib.suppress(OSError, ValueError):
                    handler.flush()


def flush(stream: Any, report: bool = False) -> bool:
    """Flush a standard stream, if it is an open one; returns False if that fails."""
    try:
        if stream is not None and not getattr(stream, "closed", False):
            stream.flush()
    except BaseException as error:
        if report:
            arguments: Any = sys.UnraisableHookArgs
            sys.unraisablehook(arguments((type(error), error, None, None, stream)))
        return False
    return True


def report_ignored(function: Any, error: BaseException) -> None:
    """Report an exception in an exit handler, which does not change the exit code."""
    try:
        where = repr(function)
    except Exception:
        where = "<object repr() failed>"
    # CPython 3.13 moved the colon.
    words = f"callback: {where}" if sys.version_info < (3, 13) else f"callback {where}:"
    print(f"Exception ignored in atexit {words}", file=sys.stderr)
    print_error(error)


def print_error(error: BaseException) -> None:
    """Print an error with the frames that are not ours."""
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
    """Return an exception's traceback, starting at the first frame that is not ours.

    Nor that of `runpy`, which finds modules for us.
    """
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == HERE:
        frames = frames.tb_next
        while frames is not None and frames.tb_frame.f_globals.get("__name__") == "runpy":
            frames = frames.tb_next
    return end_at_script(frames)
