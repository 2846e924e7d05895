"""What a script finds when it starts: its own streams, a clean `__main__`, no event loop.

Afterwards the kernel's own state is restored. Sent to the kernel as text, like `setup.py`; knows
nothing about the script's code.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import getpass
import importlib
import importlib.machinery
import io
import itertools
import os
import re
import signal
import site
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, MutableMapping
from typing import IO, Any

from .asked_input import AskedInput

if sys.platform != "win32":
    import fcntl

STREAMS = ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")
# Lowest numbers for descriptors that scripts should not meet: beyond `os.closerange(3, 1024)`,
# or what a limit allows.
HIGH = (1_100, 1_000, 200, 50) if sys.platform != "win32" else ()
FIGURES = ("matplotlib_inline.backend_inline", "matplotlib.pyplot")
HISTORY = re.compile(r"_{1,3}|_i{1,3}|_i?\d+")  # IPython's names for earlier cells


@contextlib.contextmanager
def outside_event_loop() -> Iterator[None]:
    """Step out of the kernel's event loop; in the end restore what a script may have changed.

    `asyncio.run` refuses to start inside a running loop, and `get_event_loop` would find
    the kernel's; with its own policy the script sees none.
    """
    loop = asyncio._get_running_loop()  # there is none before a kernel's first cell
    task = asyncio.current_task() if loop is not None else None
    policy = asyncio.events._event_loop_policy  # type: ignore[attr-defined]
    handlers = {n: signal.getsignal(n) for n in signal.valid_signals() if n != signal.SIGINT}
    wakeup = signal.set_wakeup_fd(-1)
    names = [name for name in ("argv", "orig_argv", "path") if hasattr(sys, name)]
    of_sys = {name: getattr(sys, name) for name in names}
    folder, filters = os.getcwd(), warnings.filters[:]
    if loop is not None and task is not None:
        asyncio.tasks._leave_task(loop, task)
    asyncio.events._set_running_loop(None)
    asyncio.events._event_loop_policy = None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        if hasattr(signal, "setitimer"):
            for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
                signal.setitimer(timer, 0)
        signal.set_wakeup_fd(wakeup)
        asyncio.events._event_loop_policy = policy  # type: ignore[attr-defined]
        asyncio.events._set_running_loop(loop)
        if loop is not None and task is not None:
            asyncio.tasks._enter_task(loop, task)
        vars(sys).update(of_sys)
        warnings.resetwarnings()  # tells the machinery that the filters change
        warnings.filters[:] = filters  # type: ignore[index]
        with contextlib.suppress(OSError):  # the folder may be gone
            os.chdir(folder)


def enter_streams(
    undo: contextlib.ExitStack, raw: list[int], stdin: bytes, asked: AskedInput | None
) -> None:
    """Put the script's input on descriptor 0 and the raw pipes, if any, on 1 and 2.

    What is `asked` for as it is read has no descriptor.
    """
    restore_later(undo, vars(sys), *STREAMS)
    kernels = {name: getattr(sys, name) for name in STREAMS}
    nothing = os.open(os.devnull, os.O_RDWR)
    undo.callback(give_back, moved_up(nothing), 0)
    os.close(nothing)
    with nameless_file() as given:
        given.write(stdin)
        given.flush()
        given.seek(0)
        os.dup2(given.fileno(), 0)
    if raw:
        for number, pipe in enumerate(raw, 1):
            undo.callback(give_back, moved_up(number), number)
            os.dup2(pipe, number)
        targets: list[Any] = [io.FileIO(fd, "w", closefd=False) for fd in (1, 2)]
    else:
        targets = [Published(sys.stdout), Published(sys.stderr)]
    for name, raw_io in zip(("stdout", "stderr"), targets):  # noqa: B905 (Python 3.9)
        buffer = raw_io if os.environ.get("PYTHONUNBUFFERED") else io.BufferedWriter(raw_io)
        stream = text_stream(buffer, kernels[f"__{name}__"], name)
        vars(sys).update({name: stream, f"__{name}__": stream})
    reader = io.BufferedReader(asked or io.FileIO(0, "r", closefd=False))
    stdin_stream = text_stream(reader, kernels["__stdin__"], "stdin")
    vars(sys).update(stdin=stdin_stream, __stdin__=stdin_stream)


def enter_main(
    undo: contextlib.ExitStack,
    shell: Any,
    kernels_names: set[str],
    path: str | None,
    asked: AskedInput | None,
) -> None:
    """Make `__main__` and the builtins look as at the start of a script, or of a module.

    Only `kernels_names` and IPython's history are hidden: a script sees what cells have defined.
    """
    namespace, kernel = shell.user_ns, shell.kernel
    own = [n for n in namespace if n in kernels_names or HISTORY.fullmatch(n)]
    hidden = {n: namespace.pop(n) for n in own}
    undo.callback(lambda: [namespace.setdefault(n, v) for n, v in hidden.items()])
    for name in ("__warningregistry__", "__file__", "__cached__"):
        namespace.pop(name, None)
    namespace.update(
        __name__="__main__",
        __doc__=None,
        __package__=None,
        __loader__=importlib.machinery.BuiltinImporter,
        __spec__=None,
        __builtins__=builtins,
    )
    if path is not None:
        loader = importlib.machinery.SourceFileLoader("__main__", path)
        namespace.update(__loader__=loader, __file__=path, __cached__=None)
    if sys.version_info < (3, 14):
        namespace["__annotations__"] = {}
    restore_later(undo, vars(builtins), "input", "exit", "quit")
    restore_later(undo, vars(getpass), "getpass")
    builtins.input = kernel._sys_raw_input
    getpass.getpass = kernel._save_getpass
    if asked is not None and asked.isatty():
        getpass.getpass = asked.getpass
    site.setquit()
    undo.callback(reconnect_figures, {name for name in FIGURES if name in sys.modules})
    # tqdm.auto and others check these two to detect IPython.
    restore_later(undo, sys.modules, "ipykernel.zmqshell")
    del sys.modules["ipykernel.zmqshell"]
    restore_later(undo, ipython := vars(sys.modules["IPython"]), "get_ipython")
    ipython["get_ipython"] = lambda: None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading._counter = itertools.count(1).__next__  # type: ignore[attr-defined]


def enter_folder(
    undo: contextlib.ExitStack,
    folders: list[str],
    path: str | None,
    module: str | None,
    args: list[str],
) -> None:
    """Make `sys.argv`, `sys.path` and `sys.modules` look as at the start of a script or module.

    Args:
        undo: restores the kernel's own modules.
        folders: that of the script, and the one to run in if that is another; one for a module.
        path: of the script.
        module: the name of the module, if it is not a script.
        args: the arguments of either.
    """
    os.chdir(folders[-1])
    if path is None:
        # As in an interpreter, which knows the module's file only once it has imported its parents.
        sys.argv, sys.orig_argv = ["-m", *args], [sys.executable, "-m", str(module), *args]
        first = [os.getcwd()]
    else:
        name = os.path.relpath(path, folders[-1])
        sys.argv, sys.orig_argv = [name, *args], [sys.executable, name, *args]
        first = [os.path.dirname(os.path.realpath(path)), *folders[1:]]
    sys.path = [*first, *(p for p in sys.path if p and p not in first[1:])]
    for folder in folders:
        forget_modules_beneath(folder)
    for folder in first:
        forget_shadowed(undo, folder)


def restore_later(
    undo: contextlib.ExitStack, namespace: MutableMapping[str, Any], *names: str
) -> None:
    """Restore these names of a namespace in the end, or their absence."""
    before = {name: namespace[name] for name in names if name in namespace}

    def restore() -> None:
        for name in set(names) - set(before):
            namespace.pop(name, None)
        namespace.update(before)

    undo.callback(restore)


def enter_environment(undo: contextlib.ExitStack, values: dict[str, str | None]) -> None:
    """Set or remove environment variables."""
    restore_later(undo, os.environ, *values)
    for name, value in values.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def is_beneath(path: str | None, folder: str) -> bool:
    """Return whether a module's file is the project's own, not a package installed there."""
    return bool(path) and str(path).startswith(folder + os.sep) and "site-packages" not in str(path)


def nameless_file() -> IO[bytes]:
    """An empty file; in memory where the system has that, without a search for a folder."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("stdin"), "w+b")
    return tempfile.TemporaryFile()


def forget_modules_beneath(folder: str) -> None:
    """Drop the project's modules that an earlier run imported: their files may have changed.

    Looks only at modules that were imported after `note_modules`: looking at all would copy the
    memory that a forked kernel shares with its template.
    """
    later = later_modules()
    for name in later:
        module = sys.modules[name]
        if name != "__main__" and is_beneath(getattr(module, "__file__", None), folder):
            del sys.modules[name]
    if later:  # else this process has not looked into any folder yet
        importlib.invalidate_caches()


def forget_shadowed(undo: contextlib.ExitStack, folder: str) -> None:
    """Let a folder's modules be found whose names the kernel has imported from elsewhere.

    An interpreter would find them first, but for what it has imported itself by then.
    """
    found = set()
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name.removesuffix(".py")
            if name not in sys.modules or name in AT_START or find_frozen(name) is not None:
                continue
            is_module = name != entry.name or os.path.isfile(
                os.path.join(entry.path, "__init__.py")
            )
            if is_module and not is_beneath(getattr(sys.modules[name], "__file__", None), folder):
                found.add(name)
    if not found:
        return

    def taken() -> dict[str, Any]:
        names = [name for name in sys.modules if name.partition(".")[0] in found]
        return {name: sys.modules.pop(name) for name in names}

    before = taken()

    def restore() -> None:
        taken()
        sys.modules.update(before)

    undo.callback(restore)


def later_modules() -> list[str]:
    """The names of the modules that were imported after `note_modules`, the latest first."""
    later, noted = [], set(LATEST_NOTED)
    for name in reversed(sys.modules):
        noted.discard(name)
        if LATEST_NOTED and not noted:
            break
        if name not in NOTED:
            later.append(name)
    return later


def note_modules() -> None:
    """Take the modules imported so far for packages, which no run changes.

    Call it again after a rehearsal: runs take some away, and put them back behind the others.
    """
    if not LATEST_NOTED:
        LATEST_NOTED[:] = itertools.islice(reversed(sys.modules), 2)
    NOTED.update(LATEST_NOTED, later_modules())
    KEPT.update(sys.modules)


def put_modules_back() -> None:
    """Restore `sys.modules` if code has emptied it: nothing could be imported or reported."""
    if "sys" not in sys.modules:
        for name, module in KEPT.items():
            sys.modules.setdefault(name, module)


# What an interpreter imports before it has a folder of scripts, and what is no file.
AT_START = {
    *("__main__", "__mp_main__", "sitecustomize", "usercustomize"),
    *("abc", "codecs", "encodings", "genericpath", "io", "ntpath", "os", "posixpath", "runpy"),
    *("site", "stat", *sys.builtin_module_names),
}
find_frozen = importlib.machinery.FrozenImporter.find_spec
KEPT: dict[str, Any] = {}  # the modules that were noted
LATEST_NOTED: list[str] = []  # two, since one might be removed and imported again
NOTED: set[str] = set()  # these, and those behind them


def reconnect_figures(known: set[str]) -> None:
    """Let cells show figures if a script imported pyplot, which found no IPython then."""
    inline = sys.modules.get("matplotlib_inline.backend_inline")
    if inline and FIGURES[0] not in known:
        inline._enable_matplotlib_integration()
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot and FIGURES[1] not in known:
        pyplot.install_repl_displayhook()


def moved_up(descriptor: int) -> int:
    """Duplicate a descriptor to a number that scripts neither use nor close, if there is one."""
    for lowest in HIGH:
        with contextlib.suppress(OSError):
            return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
    return os.dup(descriptor)


def give_back(own: int, number: int) -> None:
    """Restore a descriptor to the kernel's own file."""
    os.dup2(own, number)
    os.close(own)


def text_stream(buffer: Any, like: Any, name: str) -> io.TextIOWrapper:
    """Open a standard stream as the interpreter does; output is line-buffered, or not at all."""
    raw = getattr(buffer, "raw", buffer)
    raw.name = f"<{name}>"
    stream = io.TextIOWrapper(
        buffer,
        encoding=getattr(like, "encoding", None) or "utf-8",
        errors=getattr(like, "errors", None) or "backslashreplace",
        newline=None if sys.platform == "win32" or name == "stdin" else "\n",
        line_buffering=name != "stdin" and raw is not buffer,
        write_through=raw is buffer,
    )
    stream.mode = "r" if name == "stdin" else "w"  # type: ignore[misc]
    return stream


class Published(io.RawIOBase):
    """A byte sink that writes to ipykernel's stream, for when nobody reads the raw descriptors."""

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
