"""The template process: a Python that has imported what a kernel needs, and forks kernels.

`pool.py` runs it as a program, in the kernels' own interpreter and environment, so it uses only
the standard library and ipykernel, and leaves no trace of itself in the kernels' `sys.modules`
and `sys.path`. When it forks, it has no threads and no ZMQ context.

Its arguments: the descriptor of a line to its owner, then the names of modules to import
ahead. It reports over the line in JSON; when the line closes, it kills its kernels and exits. An
`f` on the line requests a kernel and carries a connection and the descriptors that become
0, 1 and 2; the connection delivers 4 bytes of length and JSON (`arguments`, `env`, `cwd`,
`umask`, `apart`, `last_filter`, `number`). The kernel answers there with `p` and its pid; once it
has ended, the template sends `e` and its exit code, as `subprocess` gives it, and closes. A kernel
that has loaded modules of which its user has other versions answers with `m` instead, and exits.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import importlib.util
import json
import os
import re
import runpy  # noqa: F401 (`-m` has imported it in an ordinary kernel)
import select
import signal
import site
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

MARK = "RMI_AGENT_KERNEL"  # environment variable, rewritten in place for other processes to read
FILE_LOCKS = 10  # RLIMIT_LOCKS: see `process_tree/reaper.py`
PATIENCE = 5.0  # max seconds to wait for the next part of a request
FORK, RETIRE = b"f", b"r"  # commands to a template
LENGTH = struct.Struct("!i")
ANSWER = struct.Struct("!ci")  # b"p" and a pid, b"e" and an exit code, b"m" and one of:
MEETS_PRELOAD, MEETS_ALL = 1, 2  # the user has other versions of the template's modules
DESCRIPTORS = 250  # size that the descriptor table is grown to before there are threads
INLINE = "module://matplotlib_inline.backend_inline"
FILES: list[str] = []  # files of the loaded modules, once all are loaded
Request = dict[str, Any]


def beside(name: str) -> ModuleType:
    """Load a module from this program's folder without adding it to `sys.modules`."""
    place = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from . import afterfork
else:
    afterfork = beside("afterfork")


class Template:
    """The template's state and loop; one per process.

    Args:
        line: connection to the owner; when it closes, the template exits.
        preload: modules to import ahead, where they are installed.
    """

    def __init__(self, line: socket.socket, preload: list[str]) -> None:
        self.line, self.preload = line, preload
        self.kernels: dict[int, socket.socket] = {}  # pid → the connection that asked for it
        self.forking = False
        self.retired = False  # fork no more kernels, and exit after the last one
        self.born, self.env = installed(), dict(os.environ)
        libc = ctypes.CDLL(None)
        libc.getenv.restype = ctypes.c_void_p
        self.mark_place = libc.getenv(MARK.encode())
        self.wakeup, writing = os.pipe()
        for end in (self.wakeup, writing):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, self.child_has_ended)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.own = [self.wakeup, writing]
        self.base: set[str] = set()  # top-level names of the modules that every kernel needs
        self.walls = afterfork.Walls()
        self.walls.protect_template()

    def tell(self, **report: Any) -> None:
        """Report to the owner."""
        with contextlib.suppress(OSError):
            self.line.sendall(json.dumps(report).encode() + b"\n")

    # -- imports

    def prepare(self) -> Request | None:
        """Import everything; returns a request if this is now a kernel's process."""
        gc.disable()
        import ipykernel.kernelapp  # noqa: F401 (what kernels are made of)
        import IPython.core.completer
        import IPython.core.debugger  # noqa: F401

        modules, patterns = needed_by_a_kernel(self.walls)
        for name in modules:
            import_quietly(name)
        for pattern, flags in patterns:
            re.compile(pattern, flags)
        self.base = afterfork.loaded()
        gc.collect()
        gc.freeze()
        loaded = []
        for name in self.preload:
            if request := self.serve(0):
                return request
            if not is_installed(name):
                continue
            self.tell(importing=name)
            error = import_quietly(name)
            if threading.active_count() > 1:  # threads do not survive a fork
                self.tell(unfit=name, why="it starts threads")
                self.retired = True
                return None
            if error:
                self.tell(unfit=name, why=error)
            else:
                loaded.append(name)
        FILES[:] = [file for m in sys.modules.values() if (file := getattr(m, "__file__", None))]
        gc.collect()
        gc.freeze()
        self.tell(ready=loaded)
        return None

    # -- serving

    def serve(self, timeout: float | None) -> Request | None:
        """Fork kernels on request, forever or until nothing arrives for `timeout` seconds.

        Returns:
            The request, in a kernel's process.
        """
        while True:
            if self.retired and not self.kernels:
                self.end()
            line = self.line.fileno()
            readable, _, _ = select.select([self.wakeup, line], [], [], timeout)
            self.reap()
            if line in readable:
                try:
                    told, descriptors, _, _ = socket.recv_fds(self.line, 1, 4)
                except OSError:  # the owner exited without reading our reports
                    told = b""
                if not told:
                    self.end()
                elif told == RETIRE:
                    self.retired = True
                elif request := self.fork(*descriptors):
                    return request
            elif timeout is not None:
                return None

    def fork(self, number: int, *streams: int) -> Request | None:
        """Fork a kernel for a connection; returns the request in the kernel's process."""
        connection = socket.socket(fileno=number)
        connection.settimeout(PATIENCE)
        request = None
        try:
            if installed() != self.born:
                self.tell(stale=True)  # a package was installed since; our modules may be old
            elif not self.retired:
                request = receive(connection)
        except (OSError, ValueError, EOFError) as error:
            self.tell(refused=repr(error))
        if request is None:
            connection.close()
            for stream in streams:
                os.close(stream)
            return None
        self.forking = True
        with warnings.catch_warnings():
            # It warns of native threads, of OpenBLAS and others, which can cope with a fork.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                self.become(request, streams, connection)
            except BaseException as error:  # must not look like a failure of the template
                self.tell(refused=f"{type(error).__name__}: {error}")
                os._exit(1)
            return request
        self.kernels[pid] = connection
        self.forking = False
        for stream in streams:
            os.close(stream)
        return None

    def become(self, request: Request, streams: tuple[int, ...], connection: socket.socket) -> None:
        """In the child: drop the template's resources and set up the kernel's own."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        env = request["env"]
        if self.mark_place and len(env.get(MARK, "")) == len(os.environ[MARK]):
            ctypes.memmove(self.mark_place, env[MARK].encode(), len(env[MARK]))
        if request["number"] is not None:  # in a sandbox it is set from outside
            limit = struct.pack("QQ", request["number"], request["number"])
            ctypes.CDLL(None).setrlimit(FILE_LOCKS, limit)
        set_by_imports = {name: os.environ[name] for name in os.environ.keys() - self.env.keys()}
        os.environ.clear()
        os.environ.update({**set_by_imports, **env})
        tempfile.tempdir = None  # a template's TMPDIR is its own
        afterfork.forget_folders_of_matplotlib(env)
        if hasattr(time, "tzset"):
            time.tzset()
        os.chdir(request["cwd"])
        os.umask(request["umask"])
        if request["apart"]:
            self.walls.keep_apart()
        met = afterfork.met(self.env)
        if request["last_filter"]:
            met -= self.base  # an ordinary start would load the user's, but can't be sealed in time
        if met:
            kind = MEETS_PRELOAD if self.base.isdisjoint(met) else MEETS_ALL
            connection.sendall(ANSWER.pack(b"m", kind))
            os._exit(0)
        try:
            connection.sendall(ANSWER.pack(b"p", os.getpid()))
        except OSError:  # the requester has gone
            os._exit(1)
        for stream in streams:
            os.close(stream)
        for end in (self.line, connection, *self.kernels.values()):
            end.close()
        for descriptor in self.own:
            os.close(descriptor)
        if "multiprocessing.process" in sys.modules:
            sys.modules["multiprocessing.process"].current_process().authkey = os.urandom(32)
        if "numpy.random" in sys.modules:
            sys.modules["numpy.random"].seed()
        # Growing the descriptor table takes many milliseconds in a process with threads.
        with contextlib.suppress(OSError):  # `ulimit -n` may be lower
            os.close(os.dup2(0, DESCRIPTORS, inheritable=False))

    def child_has_ended(self, *_: object) -> None:
        """Handle SIGCHLD at once, since the import of a module may take long."""
        if not self.forking:  # else the loop reaps, once the new pid is registered
            self.reap()

    def reap(self) -> None:
        """Report the exit codes of kernels that have ended."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wakeup, 4096):
                pass
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if connection := self.kernels.pop(pid, None):
                    with contextlib.suppress(OSError):
                        code = os.waitstatus_to_exitcode(status)
                        connection.sendall(ANSWER.pack(b"e", code))
                    connection.close()

    def end(self) -> NoReturn:
        """Kill the remaining kernels and exit: the owner has gone, or wants no more."""
        for pid in self.kernels:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        os._exit(0)


def receive(connection: socket.socket) -> Request:
    """Read a complete request.

    Raises:
        EOFError: the connection ended before that.
    """
    data = b""
    while len(data) < LENGTH.size or len(data) < LENGTH.size + LENGTH.unpack_from(data)[0]:
        if not (piece := connection.recv(65536)):
            raise EOFError("half a request")
        data += piece
    return json.loads(data[LENGTH.size :])  # type: ignore[no-any-return]


def installed() -> list[tuple[str, int]]:
    """The time of the last install or removal in each package folder."""
    more = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    folders = [*site.getsitepackages(), site.getusersitepackages(), *more]
    times = []
    for folder in folders:
        with contextlib.suppress(OSError):
            times.append((folder, os.stat(folder).st_mtime_ns))
    return times


def is_installed(name: str) -> bool:
    """Whether a module's top-level package can be found."""
    try:
        return importlib.util.find_spec(name.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def import_quietly(name: str) -> str:
    """Import a module; returns the `repr` of what it raised, or an empty string."""
    try:
        importlib.import_module(name)
    except BaseException as error:  # SystemExit too: some modules exit on import
        return repr(error)
    return ""


def needed_by_a_kernel(walls: afterfork.Walls) -> tuple[list[str], list[tuple[str, int]]]:
    """The modules and regular expressions that a kernel's start and first cell use.

    They come from a child that becomes a kernel, since the parent must stay free of threads.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        with contextlib.suppress(OSError):  # only required in a sandbox
            walls.keep_apart()
        before = set(sys.modules)
        with tempfile.TemporaryDirectory() as folder:
            os.environ["IPYTHONDIR"] = folder  # none of the user's start-up code, no history
            os.chdir(folder)  # a socket's path may have at most 107 bytes
            app = start([f"-f={folder}/k.json", "--transport=ipc", "--ip=k"])
            app.shell.run_cell("1 + 1", silent=True)
            modules = [name for name in sys.modules if name not in before]
        # `re` caches what it compiled; the cache is private, so it may be missing.
        keys = [key[1:3] for key in getattr(re, "_cache", ()) if key[0] is str]
        with os.fdopen(writing, "w") as answer:
            json.dump([modules, [(pattern, int(flags)) for pattern, flags in keys]], answer)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        modules, patterns = json.load(told)
    with contextlib.suppress(ChildProcessError):  # the SIGCHLD handler was faster
        os.waitpid(pid, 0)
    return modules, patterns


def start(arguments: list[str]) -> Any:
    """Start an IPython kernel as `ipykernel_launcher` does, up to the event loop."""
    from ipykernel.kernelapp import IPKernelApp
    from traitlets.config.loader import Config

    app: Any = IPKernelApp.instance()
    if len(arguments) == 2 and arguments[0] == "-f":
        # Nearly every kernel is started like this; the general parser takes 8 ms of 45.
        def parse_command_line(argv: list[str]) -> None:
            app.argv, app.extra_args = argv, []
            app.cli_config = Config(IPKernelApp={"connection_file": argv[1]})
            app.update_config(app.cli_config)

        app.parse_command_line = parse_command_line
    with without_touching_all_modules(app):
        app.initialize(arguments)
    vars(app).pop("parse_command_line", None)
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


def run(request: Request, template_env: dict[str, str]) -> None:
    """Run the requested kernel as `python -m ipykernel_launcher` would."""
    launcher = importlib.util.find_spec("ipykernel_launcher")
    sys.argv = [str(launcher and launcher.origin), *request["arguments"]]
    sys.orig_argv = [sys.executable, "-m", "ipykernel_launcher", *request["arguments"]]
    app = start(request["arguments"])
    if request["last_filter"]:
        afterfork.forbid_calls(bytes.fromhex(request["last_filter"]))
    afterfork.enter(template_env)
    gc.freeze()
    gc.enable()
    app.start()
    leave()


def leave() -> NoReturn:
    """Exit as usual, except that objects are not torn down one by one.

    That would copy most of the memory shared with the template, only to discard it. The
    children of `multiprocessing` exit in the same way.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(0)


def main() -> None:
    """Prepare and serve; in a kernel's process, run the kernel."""
    line = socket.socket(fileno=int(sys.argv[1]))
    if not sys.flags.safe_path:
        del sys.path[0]
    os.environ.setdefault("MPLBACKEND", INLINE)  # as kernels do, before pyplot reads it
    template, request = Template(line, sys.argv[2:]), None
    try:
        request = template.prepare() or template.serve(None)
    except Exception:
        template.tell(failed=traceback.format_exc())
        raise
    if request is not None:
        run(request, template.env)


if __name__ == "__main__":
    main()
