"""Runs `python FILE` inside a kernel, which lives on afterwards.

A script gets real files on descriptors 0, 1 and 2 as its streams, a clean `__main__`, and an
exit like an interpreter's: threads joined, exit handlers run. Then the kernel's own state is
restored, and the script's globals remain for the next cell.

Sent to the kernel as text, like `setup.py`; knows nothing about servers or notebooks.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import builtins
import contextlib
import getpass
import importlib
import importlib.machinery
import io
import itertools
import logging
import os
import re
import signal
import site
import sys
import tempfile
import threading
import traceback
import warnings
import weakref
from types import TracebackType
from typing import Any

# The file name this text is compiled under; its frames are removed from tracebacks.
HERE = sys._getframe().f_code.co_filename
PAYLOAD = "rmi_agent.script"


class Script:
    """Runs one script at a time in this kernel's `__main__`."""

    def __init__(self, shell: Any, raw: list[int], environment: dict[str, str | None]) -> None:
        self.shell = shell
        self.raw = raw
        self.environment = environment
        self.kernels_names = set(shell.user_ns)
        self.depth = 0  # stack frames below a script's first, once counted

    def run(self) -> None:
        """Run the script in the current execute request's metadata.

        The request's `rmi_agent` entry has `path`, `argv` (the arguments), `source` and
        `stdin` (both base64), and `fresh`: whether the kernel should stay in the file's
        folder. The outcome is returned as a payload of the reply: `exit_code` as `subprocess`
        reports it (negative for a signal) and `error_name`.
        """
        request = self.shell.get_parent()["metadata"]["rmi_agent"]
        pid = os.getpid()
        outcome: dict[str, Any] = {"source": PAYLOAD, "exit_code": 1, "error_name": None}
        path = request["path"]
        if not os.path.isdir(os.path.dirname(path)):  # on another machine, which lacks the folder
            path = os.path.join(os.getcwd(), os.path.basename(path))
        if request["fresh"]:
            os.chdir(os.path.dirname(path))
        with contextlib.ExitStack() as undo:
            undo.callback(self.leave_interpreter_state, kept_interpreter_state())
            self.enter_streams(undo, base64.b64decode(request["stdin"]))
            handlers = self.enter_main(undo, path, request["argv"])
            # Undone first: a late SIGINT must not interrupt the restoring.
            undo.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)
            known_threads = set(threading.enumerate())
            known_finalizers = set(weakref.finalize._registry)  # type: ignore[attr-defined]
            known_children = set(children())
            try:
                outcome.update(self.execute(path, base64.b64decode(request["source"])))
            finally:
                self.finish(handlers, known_threads, known_finalizers, known_children)
                if os.getpid() != pid:  # the script forked, and this child is done
                    os._exit(outcome["exit_code"])
        self.shell.payload_manager.write_payload(outcome)

    # -- the script itself

    def execute(self, path: str, source: bytes) -> dict[str, Any]:
        """Compile and run the script; determine the exit code as the interpreter's main does."""
        try:
            code = compile(source, path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            return self.fail(undecodable(path, source, error) or error)
        limit = sys.getrecursionlimit()
        self.depth = self.depth or limit - room(limit)
        try:
            # The script starts about 40 frames deep; give it as many as at the top level.
            sys.setrecursionlimit(limit + self.depth)
            exec(code, self.shell.user_ns)
        except SystemExit as stop:
            return self.exit_code(stop)
        except BaseException as error:
            return self.fail(error)
        finally:
            sys.setrecursionlimit(limit)
        return {"exit_code": 0, "error_name": None}

    def exit_code(self, stop: SystemExit) -> dict[str, Any]:
        """Handle `sys.exit(x)`: None is 0, integers are kept, anything else is printed and is 1."""
        code = stop.code
        if code is None:
            return {"exit_code": 0, "error_name": None}
        if not isinstance(code, int):
            with contextlib.suppress(BaseException):  # if `__str__` raises, the code is still 1
                sys.stderr.write(str(code))
            with contextlib.suppress(Exception):
                sys.stderr.write("\n")
            code = 1
        code = int.__index__(code)  # bypasses the script's subclasses of int
        if not -(2**63) <= code < 2**63:
            code = -1
        status = code & 0xFFFFFFFF if sys.platform == "win32" else code & 0xFF
        return {"exit_code": status, "error_name": "SystemExit" if status else None}

    def fail(self, error: BaseException) -> dict[str, Any]:
        """Report an uncaught exception through `sys.excepthook`; return exit code 1 or SIGINT's."""
        error.__traceback__ = frames = without_ours(error)
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, frames
        sys.last_exc = error  # type: ignore[attr-defined]
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        call_excepthook(error, frames)
        if isinstance(error, KeyboardInterrupt):
            code = 0xC000013A if sys.platform == "win32" else -signal.SIGINT
        else:
            code = 1
        return {"exit_code": int(code), "error_name": name_of(error)}

    def finish(
        self,
        handlers: list[tuple[Any, tuple[Any, ...], dict[str, Any]]],
        known_threads: set[threading.Thread],
        known_finalizers: set[Any],
        known_children: set[Any],
    ) -> None:
        """Do an interpreter's shutdown for what the script started: threads, handlers, streams."""
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
                if not thread.daemon and thread not in known_threads
            ]:
                started[0].join()
        except KeyboardInterrupt:
            print("Interrupted while waiting for the script's threads.", file=sys.stderr)
        while handlers:
            function, args, kwargs = handlers.pop()
            try:
                function(*args, **kwargs)
            except BaseException as error:
                report_ignored(function, error)
        registry = weakref.finalize._registry  # type: ignore[attr-defined]
        fresh = [f for f in registry if f not in known_finalizers and f.atexit]
        for finalizer in sorted(fresh, key=lambda f: registry[f].index, reverse=True):
            try:
                finalizer()
            except BaseException as error:
                call_excepthook(error, error.__traceback__)
        if module := sys.modules.get("multiprocessing.util"):
            # Known children belong to earlier cells or, on another machine, the kernel's launcher.
            others = children() & known_children
            children().difference_update(others)
            try:
                module._exit_function()
            finally:
                children().update(others)
                vars(module)["_exiting"] = False
        for reference in list(getattr(logging, "_handlerList", [])):
            if (handler := reference()) is not None:
                with contextlib.suppress(OSError, ValueError):
                    handler.flush()
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()  # type: ignore[union-attr]

    # -- the script's environment, and restoring the kernel's

    def enter_streams(self, undo: contextlib.ExitStack, stdin: bytes) -> None:
        """Put the script's input on descriptor 0 and the raw pipes, if any, on 1 and 2."""
        saved = {name: getattr(sys, name) for name in STREAMS}
        undo.callback(vars(sys).update, saved)
        with tempfile.TemporaryFile() as given:
            given.write(stdin)
            given.flush()
            given.seek(0)
            os.dup2(given.fileno(), 0)
        undo.callback(point_at_null, 0)
        if self.raw:
            for number, raw in ((1, self.raw[0]), (2, self.raw[1])):
                own = os.dup(number)
                os.dup2(raw, number)
                undo.callback(give_back, own, number)
            targets: list[Any] = [io.FileIO(fd, "w", closefd=False) for fd in (1, 2)]
        else:
            targets = [Published(saved["stdout"]), Published(saved["stderr"])]
        for name, raw_io in zip(("stdout", "stderr"), targets, strict=True):
            stream = text_stream(io.BufferedWriter(raw_io), saved["__" + name + "__"], name)
            setattr(sys, name, stream)
            setattr(sys, "__" + name + "__", stream)
        reader = io.BufferedReader(io.FileIO(0, "r", closefd=False))
        stdin_stream = text_stream(reader, saved["__stdin__"], "stdin")
        vars(sys).update(stdin=stdin_stream, __stdin__=stdin_stream)

    def enter_main(
        self, undo: contextlib.ExitStack, path: str, args: list[str]
    ) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
        """Make `__main__`, `sys` and the builtins look as at the start of a script.

        Returns the list that collects the script's exit handlers.
        """
        folder, name = os.path.split(path)
        namespace, kernel = self.shell.user_ns, self.shell.kernel

        own = [n for n in namespace if n in self.kernels_names or HISTORY.fullmatch(n)]
        hidden = {n: namespace.pop(n) for n in own}
        undo.callback(lambda: [namespace.setdefault(n, v) for n, v in hidden.items()])
        namespace.pop("__warningregistry__", None)
        namespace.update(
            __name__="__main__",
            __doc__=None,
            __package__=None,
            __loader__=importlib.machinery.SourceFileLoader("__main__", path),
            __spec__=None,
            __builtins__=builtins,
            __file__=path,
            __cached__=None,
        )

        for module, names in ((builtins, BUILTINS), (getpass, ("getpass",))):
            before = {n: vars(module)[n] for n in names if n in vars(module)}
            undo.callback(put_back, module, names, before)
        builtins.input = kernel._sys_raw_input
        getpass.getpass = kernel._save_getpass
        for n in ("get_ipython", "display"):
            vars(builtins).pop(n, None)
        site.setquit()

        undo.callback(reconnect_figures, set(sys.modules))
        # tqdm.auto and others check these two to detect IPython.
        ipython, zmqshell = sys.modules["IPython"], sys.modules.pop("ipykernel.zmqshell")
        undo.callback(sys.modules.update, {"ipykernel.zmqshell": zmqshell})
        undo.callback(vars(ipython).update, get_ipython=ipython.get_ipython)
        vars(ipython)["get_ipython"] = lambda: None
        undo.callback(set_environment, set_environment(self.environment))
        sys.argv = [name, *args]
        sys.orig_argv = [sys.executable, name, *args]
        sys.path = [os.path.dirname(os.path.realpath(path)), *(p for p in sys.path if p)]
        os.chdir(folder)
        sys.excepthook = sys.__excepthook__
        signal.signal(signal.SIGINT, signal.default_int_handler)
        forget_modules_beneath(folder)
        threading._counter = itertools.count(1).__next__  # type: ignore[attr-defined]

        return collect_exit_handlers(undo, folder)

    def leave_interpreter_state(self, kept: dict[str, Any]) -> None:
        """Restore what a script may have changed for the whole process."""
        for number, handler in kept["signals"].items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        if hasattr(signal, "setitimer"):
            for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
                signal.setitimer(timer, 0)
        signal.set_wakeup_fd(kept["wakeup"])
        asyncio.events._event_loop_policy = kept["policy"]  # type: ignore[attr-defined]
        asyncio.events._set_running_loop(kept["loop"])
        if kept["task"] is not None:
            asyncio.tasks._enter_task(kept["loop"], kept["task"])
        sys.argv, sys.orig_argv, sys.path = kept["argv"], kept["orig_argv"], kept["path"]
        warnings.resetwarnings()  # tells the machinery that the filters change
        warnings.filters[:] = kept["filters"]  # type: ignore[index]
        sys.excepthook, sys.displayhook = kept["excepthook"], kept["displayhook"]
        with contextlib.suppress(OSError):  # the folder may be gone
            os.chdir(kept["cwd"])


def children() -> set[Any]:
    """Return the mutable set of child processes that `multiprocessing` joins at exit."""
    module = sys.modules.get("multiprocessing.process")
    return vars(module)["_children"] if module is not None else set()


STREAMS = ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")
HISTORY = re.compile(r"_{1,3}|_i{1,3}|_i?\d+")  # IPython's names for earlier cells
BUILTINS = ("input", "exit", "quit", "get_ipython", "display")


def set_environment(values: dict[str, str | None]) -> dict[str, str | None]:
    """Set or remove environment variables; returns what they were."""
    before = {name: os.environ.get(name) for name in values}
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return before


def kept_interpreter_state() -> dict[str, Any]:
    """Save the kernel's state, and step out of its running event loop.

    `asyncio.run` refuses to start inside a running loop, and `get_event_loop` would find
    the kernel's; with its own policy the script sees none.
    """
    loop = asyncio.get_running_loop()
    kept = {
        "signals": {n: signal.getsignal(n) for n in signal.valid_signals() if n != signal.SIGINT},
        "wakeup": signal.set_wakeup_fd(-1),
        "policy": asyncio.events._event_loop_policy,  # type: ignore[attr-defined]
        "loop": loop,
        "task": asyncio.current_task(),
        "argv": sys.argv,
        "orig_argv": sys.orig_argv,
        "path": sys.path,
        "excepthook": sys.excepthook,
        "displayhook": sys.displayhook,
        "cwd": os.getcwd(),
        "filters": warnings.filters[:],
    }
    if kept["task"] is not None:
        asyncio.tasks._leave_task(loop, kept["task"])
    asyncio.events._set_running_loop(None)
    asyncio.events._event_loop_policy = None  # type: ignore[attr-defined]
    return kept


def collect_exit_handlers(
    undo: contextlib.ExitStack, folder: str
) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """Intercept `atexit.register` calls by the script and its neighbouring modules.

    Libraries' handlers still run at the process's exit, as the libraries stay in use.
    """
    handlers: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
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

    atexit.register, atexit.unregister = register_for_script, unregister_for_script
    undo.callback(lambda: vars(atexit).update(register=register, unregister=unregister))
    return handlers


def is_beneath(path: str | None, folder: str) -> bool:
    """Return whether a module's file is the project's own, not a package installed there."""
    return bool(path) and str(path).startswith(folder + os.sep) and "site-packages" not in str(path)


def forget_modules_beneath(folder: str) -> None:
    """Drop the project's modules that an earlier run imported: their files may have changed."""
    for name, module in list(sys.modules.items()):
        if name != "__main__" and is_beneath(getattr(module, "__file__", None), folder):
            del sys.modules[name]
    importlib.invalidate_caches()


def undecodable(path: str, source: bytes, error: BaseException) -> SyntaxError | None:
    """Return the error CPython has for a *file* with an unknown encoding or invalid bytes."""
    if isinstance(error, SyntaxError) and (error.msg or "").startswith("unknown encoding: "):
        return SyntaxError(error.msg.replace("unknown encoding", "encoding problem"))
    first_two = source.split(b"\n", 2)[:2]
    if any(b"coding" in line and line.lstrip().startswith(b"#") for line in first_two):
        return None
    for number, line in enumerate(source.split(b"\n"), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            return SyntaxError(
                f"Non-UTF-8 code starting with '\\x{line[error.start]:02x}' in file {path} on line"
                f" {number}, but no encoding declared; see https://peps.python.org/pep-0263/"
                " for details"
            )
    return None


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


def without_ours(error: BaseException) -> TracebackType | None:
    """Return an exception's traceback, starting at the first frame outside this file."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == HERE:
        frames = frames.tb_next
    return frames


def room(limit: int) -> int:
    """Measure how many stack frames are available to a module run from here."""
    deepest = 0

    def dive(depth: int) -> None:
        nonlocal deepest
        deepest = depth
        dive(depth + 1)

    try:
        exec(compile("dive(2)", "<probe>", "exec"), {"dive": dive})
    except RecursionError:
        return deepest + 1  # a script does not have this function's frame below it
    return limit


def put_back(module: Any, names: tuple[str, ...], before: dict[str, Any]) -> None:
    """Restore the named attributes of a module, or their absence."""
    for name in names:
        vars(module).pop(name, None)
    vars(module).update(before)


def reconnect_figures(known: set[str]) -> None:
    """Let cells show figures if a script imported pyplot, which found no IPython then."""
    inline = sys.modules.get("matplotlib_inline.backend_inline")
    if inline and "matplotlib_inline.backend_inline" not in known:
        inline._enable_matplotlib_integration()
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot and "matplotlib.pyplot" not in known:
        pyplot.install_repl_displayhook()


def point_at_null(number: int) -> None:
    """Point a descriptor at the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, number)
    os.close(null)


def give_back(own: int, number: int) -> None:
    """Restore a descriptor to the kernel's own file."""
    os.dup2(own, number)
    os.close(own)


def text_stream(buffer: Any, like: Any, name: str) -> io.TextIOWrapper:
    """Open a standard stream as the interpreter does; output is line-buffered."""
    buffer.raw.name = f"<{name}>"
    stream = io.TextIOWrapper(
        buffer,
        encoding=getattr(like, "encoding", None) or "utf-8",
        errors=getattr(like, "errors", None) or "backslashreplace",
        newline=None if sys.platform == "win32" or name == "stdin" else "\n",
        line_buffering=name != "stdin",
    )
    stream.mode = "r" if name == "stdin" else "w"  # type: ignore[misc]
    return stream


class Published(io.RawIOBase):
    """A byte sink that writes to ipykernel's stream, for when nobody reads the raw descriptors."""

    name = "<published>"

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def writable(self) -> bool:
        """Return True, as `io.BufferedWriter` requires."""
        return True

    def write(self, data: Any) -> int:
        """Publish bytes as text."""
        self.stream.write(bytes(data).decode("utf-8", "replace"))
        return len(data)

    def fileno(self) -> int:
        """Return the captured descriptor below the stream."""
        return int(self.stream.fileno())
