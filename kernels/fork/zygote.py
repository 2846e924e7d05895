"""The template process: a Python that has imported what a kernel needs, and forks kernels.

`template.py` runs it as a program, in the kernels' own interpreter and environment, so it uses only
the standard library and ipykernel, and leaves no trace of itself in the kernels' `sys.modules`
and `sys.path`. When it forks, it has no threads and no ZMQ context.

Its arguments: the descriptor of a line to its owner, how it forms kernels before it forks them
(JSON: `programs` to execute, `output_limit`, and `lent`, a folder whose packages come last; if
empty, each opens ZMQ sockets after its fork), then the names of modules to import ahead. It reports
over the line in JSON; when the line closes, it kills its kernels and exits. An `f` on the line
requests a kernel and carries a connection, the descriptors that become 0, 1 and 2, and those of a
formed kernel's two sockets; the connection delivers 4 bytes of length and JSON (`arguments`, `env`,
`cwd`, `umask`, `apart`, `last_filter`, `signing_key`, `number`). The kernel answers there with `p`
and its pid; once it has ended, the template sends `e` and its exit code, as `subprocess` gives it,
and closes. A kernel that has loaded modules of which its user has other versions answers with `m`
instead, and exits.

A kernel may be forked again, and its branch becomes a child of the template. An `a` on the line
carries a connection that delivers length and JSON (`pid`, as seen here); the template answers with
`p` and the pid, and from then on the branch is a kernel like those that it has forked.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import runpy  # noqa: F401 (`-m` has imported it in an ordinary kernel)
import select
import signal
import socket
import struct
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

RECEIVE_TIMEOUT = 5.0  # max seconds to wait for the next part of a request
FORK, ADOPT, RETIRE = b"f", b"a", b"r"  # commands on the line
LENGTH = struct.Struct("!i")  # precedes a request
ANSWER = struct.Struct("!ci")  # b"p" and a pid, b"e" and an exit code, b"m" and one of:
PRELOAD_CONFLICT, CORE_CONFLICT = 1, 2  # the user has other versions of the template's modules
STREAMS = 3  # descriptors of a kernel's standard streams
DESCRIPTORS = 250  # size that the descriptor table is grown to before there are threads
INLINE = "module://matplotlib_inline.backend_inline"
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
    from . import afterfork, formed_shell, kernel_app, memory_sharing, preloading
elif __name__ == "__main__":  # else only the constants are wanted
    afterfork, kernel_app = beside("afterfork"), beside("kernel_app")
    formed_shell, memory_sharing = beside("formed_shell"), beside("memory_sharing")
    preloading = beside("preloading")


class Template:
    """The template's state and loop; one per process.

    Args:
        line: connection to the owner; when it closes, the template exits.
        forms: how to form kernels before they are forked; empty means after that.
        preload: modules to import ahead, where they are installed.

    Attributes:
        formed: the kernel that all children become; None if they make their own.
    """

    def __init__(self, line: socket.socket, forms: dict[str, Any], preload: list[str]) -> None:
        self.line, self.forms, self.preload = line, forms, preload
        self.formed: Any = None
        self.kernels: dict[int, socket.socket] = {}  # pid → the connection that asked for it
        self.forking = False
        self.retired = False  # fork no more kernels, and exit after the last one
        self.packages, self.env = preloading.PackageFolders(), dict(os.environ)
        self.wakeup, writing = os.pipe()
        for end in (self.wakeup, writing):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, self.on_child_exit)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.pipe = (self.wakeup, writing)
        self.base: set[str] = set()  # top-level names of the modules that every kernel needs
        self.names: set[str] = set()  # of all loaded modules
        self.walls = afterfork.Walls()
        self.walls.protect_template()
        afterfork.adopt_orphans()

    def report(self, **facts: Any) -> None:
        """Report to the owner."""
        with contextlib.suppress(OSError):
            self.line.sendall(json.dumps(facts).encode() + b"\n")

    # -- imports

    def prepare(self) -> Request | None:
        """Import everything; returns a request if this is now a kernel's process."""
        gc.disable()
        if threading.active_count() > 1:  # of a `.pth` file; threads do not survive a fork
            self.report(failed="the environment starts threads before any code")
            self.end()
        if self.forms:
            self.formed = self.attempt(self.form)
            if self.formed is None:
                return None
            self.report(formed=self.formed.info)
        else:
            kernel_app.load(self.walls.keep_apart)
            if why := formed_shell.form():
                self.report(unformed=why)
        self.base = self.names = afterfork.loaded()
        gc.collect()
        gc.freeze()
        loaded = []
        for name in self.preload:
            if request := self.serve(0):
                return request
            if not preloading.is_installed(name):
                continue
            self.report(importing=name)
            error = kernel_app.import_quietly(name)
            if threading.active_count() > 1:  # threads do not survive a fork
                self.report(unfit=name, why="it starts threads")
                self.retired = True
                return None
            if error:
                self.report(unfit=name, why=error)
            else:
                loaded.append(name)
            self.names = afterfork.loaded()
        files = [getattr(module, "__file__", None) for module in sys.modules.values()]
        kernel_app.FILES[:] = filter(None, files)
        gc.collect()
        if self.formed:
            self.attempt(self.formed.all_is_loaded)
        gc.freeze()
        memory_sharing.prepare()
        self.report(ready=loaded)
        return None

    def form(self) -> Any:
        """Make the kernel that all children become."""
        programs = preloading.executed(self.forms["programs"])
        return programs["Formed"](self.forms["output_limit"])

    def attempt(self, work: Callable[[], Any]) -> Any:
        """Do a part of forming kernels; if it fails, report why and fork no more.

        What is private in ipykernel and IPython may be different in their other versions.
        """
        try:
            return work()
        except Exception as error:
            why = "".join(traceback.format_exception_only(error)).strip()
            self.report(unable=why, trace=traceback.format_exc())
            self.retired = True
            return None

    # -- serving

    def serve(self, timeout: float | None) -> Request | None:
        """Fork kernels on request, forever or until nothing arrives for `timeout` seconds.

        Returns:
            The request, in a kernel's process.
        """
        line, waiting = self.line.fileno(), select.poll()  # `select` refuses high descriptors
        for descriptor in (self.wakeup, line):
            waiting.register(descriptor, select.POLLIN)
        while True:
            if self.retired and not self.kernels:
                self.end()
            readable = dict(waiting.poll(None if timeout is None else timeout * 1000))
            # Here alone: `poll` would wait on if the handler of a signal had read what wakes it.
            with contextlib.suppress(BlockingIOError):
                while os.read(self.wakeup, 4096):
                    pass
            self.reap()
            if line in readable:
                try:
                    command, descriptors, _, _ = socket.recv_fds(self.line, 1, STREAMS + 3)
                except OSError:  # the owner exited without reading our reports
                    command = b""
                if not command:
                    self.end()
                elif command == RETIRE:
                    self.retired = True
                elif not descriptors:
                    self.report(refused="no descriptor has arrived: too many are open")
                elif command == ADOPT:
                    self.adopt(*descriptors)
                elif request := self.fork(*descriptors):
                    return request
            elif timeout is not None:
                return None

    def fork(self, number: int, *streams: int) -> Request | None:
        """Fork a kernel for a connection; returns the request in the kernel's process."""
        connection = socket.socket(fileno=number)
        connection.settimeout(RECEIVE_TIMEOUT)
        request, pid = None, -1
        try:
            if len(streams) < STREAMS:
                raise EOFError("descriptors are missing: too many are open")
            if self.packages.have_changed():
                self.report(stale=True)  # a package was installed since; our modules may be old
            elif not self.retired:
                request = receive(connection)
                self.forking = True
                pid = forked()  # may find too many processes: those that there are go on
        except (OSError, ValueError, EOFError) as error:
            self.report(refused=repr(error))
        if request is None or pid < 0:
            self.forking = False
            connection.close()
            for stream in streams:
                os.close(stream)
            return None
        if pid == 0:
            try:
                self.become(request, streams, connection)
            except BaseException as error:  # must not look like a failure of the template
                self.report(refused=f"{type(error).__name__}: {error}")
                os._exit(1)
            return request
        self.kernels[pid] = connection
        self.forking = False
        for stream in streams:
            os.close(stream)
        return None

    def adopt(self, number: int) -> None:
        """Take charge of a kernel that another one has forked; closes a connection for any other.

        Only a child of this process that is nobody's kernel can be one.
        """
        connection = socket.socket(fileno=number)
        connection.settimeout(RECEIVE_TIMEOUT)
        self.forking = True  # it must not be reaped meanwhile
        try:
            pid = receive(connection)["pid"]
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None or pid in self.kernels:
                raise ValueError(f"{pid} has ended or is a kernel already")
            connection.sendall(ANSWER.pack(b"p", pid))
            self.kernels[pid] = connection
        except Exception as error:  # whatever the request has: the other kernels go on
            self.report(refused=repr(error))
            connection.close()
        finally:
            self.forking = False

    def become(self, request: Request, streams: tuple[int, ...], connection: socket.socket) -> None:
        """In the child: drop the template's resources and set up the kernel's own."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if not self.formed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, stream in enumerate(streams[:STREAMS]):
            os.dup2(stream, number)
        if self.formed:
            self.formed.take(*streams[1:])
        if lent := self.forms.get("lent"):
            for used in (sys.prefix, lent):
                with contextlib.suppress(OSError):
                    os.utime(used)  # see `environments/tidy_store.py`
        afterfork.take_environment(request, self.env)
        if request["apart"]:
            self.walls.keep_apart()
        conflicts = afterfork.conflicts(self.names, self.env)
        if request["last_filter"]:  # an ordinary start would load them, but can't be sealed in time
            conflicts -= self.base
        if conflicts:
            kind = PRELOAD_CONFLICT if self.base.isdisjoint(conflicts) else CORE_CONFLICT
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
        for descriptor in self.pipe:
            os.close(descriptor)
        afterfork.renew_random_state()
        # Growing the descriptor table takes many milliseconds in a process with threads.
        with contextlib.suppress(OSError):  # `ulimit -n` may be lower
            os.close(os.dup2(0, DESCRIPTORS, inheritable=False))

    def on_child_exit(self, *_: object) -> None:
        """Handle SIGCHLD at once, since the import of a module may take long."""
        if not self.forking:  # else the loop reaps, once the new pid is registered
            self.reap()

    def reap(self) -> None:
        """Reap children that have ended: kernels, whose exit codes are reported, and orphans."""
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
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # to reap them would change `kernels`
        for pid in self.kernels:
            for kill in (os.killpg, os.kill):  # one that was just forked leads no group yet
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    kill(pid, signal.SIGKILL)
        os._exit(0)


def forked() -> int:
    """Fork, as `os.fork` does, without its warning.

    It warns of native threads, of OpenBLAS and others, which can cope with a fork.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


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


def run_formed(request: Request, template: Template) -> None:
    """Run the requested kernel, which the template has formed."""
    if request["last_filter"]:
        afterfork.forbid_calls(bytes.fromhex(request["last_filter"]))
    afterfork.enter(template.env)
    sys.orig_argv = [sys.executable]
    gc.freeze()
    gc.enable()
    template.formed.run(request["signing_key"].encode(), afterfork.take_mark)


def run(request: Request, template_env: dict[str, str]) -> None:
    """Run the requested kernel as `python -m ipykernel_launcher` would."""
    launcher = importlib.util.find_spec("ipykernel_launcher")
    sys.argv = [str(launcher and launcher.origin), *request["arguments"]]
    sys.orig_argv = [sys.executable, "-m", "ipykernel_launcher", *request["arguments"]]
    app = kernel_app.start(request["arguments"], formed_shell.init_kernel)
    if request["last_filter"]:
        afterfork.forbid_calls(bytes.fromhex(request["last_filter"]))
    afterfork.enter(template_env)
    gc.freeze()
    gc.enable()
    app.start()
    kernel_app.leave(app)


def main() -> None:
    """Prepare and serve; in a kernel's process, run the kernel."""
    line = socket.socket(fileno=int(sys.argv[1]))
    if not sys.flags.safe_path:
        del sys.path[0]
    os.environ.setdefault("MPLBACKEND", INLINE)  # as kernels do, before pyplot reads it
    forms = json.loads(sys.argv[2])
    if lent := forms.get("lent"):
        sys.path.append(lent)
    template, request = Template(line, forms, sys.argv[3:]), None
    try:
        request = template.prepare() or template.serve(None)
    except Exception:
        template.report(failed=traceback.format_exc())
        raise
    if request is not None and template.formed:
        run_formed(request, template)
    elif request is not None:
        run(request, template.env)


if __name__ == "__main__":
    main()
