"""An IPython kernel in this process: loads what it needs, starts it as ipykernel does, ends it.

Loaded by `zygote.py` without a trace in `sys.modules`; uses only the standard library and
ipykernel. Knows nothing of requests and forks.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

CONTROL_TIMEOUT = 0.5  # max seconds until the control thread has stopped
FILES: list[str] = []  # files of the loaded modules, once all are loaded


def start(arguments: list[str], init_kernel: Callable[[Any, bool], None] | None = None) -> Any:
    """Start an IPython kernel as `ipykernel_launcher` does, up to the event loop.

    Args:
        arguments: those of the launcher.
        init_kernel: replaces the application's method; called with the application, and whether
            there are no arguments but the connection file.
    """
    from ipykernel.kernelapp import IPKernelApp
    from traitlets.config.loader import Config

    app: Any = IPKernelApp.instance()
    if plain := len(arguments) == 2 and arguments[0] == "-f":
        # Nearly every kernel is started like this; the general parser takes 8 ms of 45.
        def parse_command_line(argv: list[str]) -> None:
            app.argv, app.extra_args = argv, []
            app.cli_config = Config(IPKernelApp={"connection_file": argv[1]})
            app.update_config(app.cli_config)

        app.parse_command_line = parse_command_line
    if init_kernel is not None:
        app.init_kernel = lambda: init_kernel(app, plain)
    with without_touching_all_modules(app):
        app.initialize(arguments)
    for replaced in ("parse_command_line", "init_kernel"):
        vars(app).pop(replaced, None)
    return app


@contextlib.contextmanager
def without_touching_all_modules(app: Any) -> Iterator[None]:
    """Keep ipykernel from listing all loaded files for its debugger.

    It would touch every module, which copies 4 MB of the memory that a kernel shares with its
    template. The template already has that list.
    """

    class Sys:
        modules = type("Modules", (dict,), {"copy": dict})()

        def __getattr__(self, name: str) -> Any:
            return getattr(sys, name)

    if not FILES:
        yield
        return
    ipkernel: Any = importlib.import_module("ipykernel.ipkernel")
    ipkernel.sys = Sys()
    try:
        yield
    finally:
        ipkernel.sys = sys
    app.kernel._kernel_modules = FILES
    if debugger := getattr(app.kernel, "debugger", None):
        debugger.kernel_modules = FILES


def leave(app: Any) -> NoReturn:
    """Exit as usual, except that objects are not torn down one by one.

    That would copy most of the memory shared with the template, only to discard it. The
    children of `multiprocessing` exit in the same way.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    # It may be flushing through iopub, which `app.close` closes first: it would wait for ever.
    if app.control_thread is not None:
        app.control_thread.stop()
        app.control_thread.join(CONTROL_TIMEOUT)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(0)


def load(enter_walls: Callable[[], None]) -> None:
    """Import the modules that a kernel's start and first cell use, and compile their patterns."""
    import ipykernel.kernelapp  # noqa: F401 (what kernels are made of)
    import IPython.core.completer
    import IPython.core.debugger  # noqa: F401

    modules, patterns = rehearse(enter_walls)
    for name in modules:
        import_quietly(name)
    for pattern, flags in patterns:
        re.compile(pattern, flags)


def import_quietly(name: str) -> str:
    """Import a module; returns the `repr` of what it raised, or an empty string."""
    try:
        importlib.import_module(name)
    except BaseException as error:  # SystemExit too: some modules exit on import
        return repr(error)
    return ""


def rehearse(enter_walls: Callable[[], None]) -> tuple[list[str], list[tuple[str, int]]]:
    """The modules and regular expressions that a kernel's start and first cell use.

    They come from a child that becomes a kernel, since the parent must stay free of threads.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        with contextlib.suppress(OSError):  # only required in a sandbox
            enter_walls()
        before = set(sys.modules)
        with tempfile.TemporaryDirectory() as folder:
            os.environ["IPYTHONDIR"] = folder  # none of the user's start-up code, no history
            os.chdir(folder)  # a socket's path may have at most 107 bytes
            app = start([f"-f={folder}/k.json", "--transport=ipc", "--ip=k"])
            app.shell.run_cell("1 + 1", silent=True)
            modules = [name for name in sys.modules if name not in before]
        # `re` caches what it compiled; the cache is private, so it may be missing.
        keys = [key[1:3] for key in getattr(re, "_cache", ()) if key[0] is str]
        with os.fdopen(writing, "w") as parent:
            json.dump([modules, [(pattern, int(flags)) for pattern, flags in keys]], parent)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        modules, patterns = json.load(answer)
    with contextlib.suppress(ChildProcessError):  # the SIGCHLD handler was faster
        os.waitpid(pid, 0)
    return modules, patterns
