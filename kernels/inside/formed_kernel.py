"""A kernel that a template forms, with its application and shell, and that runs once it is forked.

Executed in a template, like `setup.py`; knows nothing of servers and sessions.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ipykernel.iostream import OutStream
from ipykernel.kernelapp import IPKernelApp

from .branching import Branching
from .frames import CONTROL, IOPUB, SHELL
from .kernel_loop import leave_kernel
from .rehearsal import rehearse_cells, rehearse_file
from .run_at_once import run_at_once
from .script_environment import moved_up, note_modules
from .setup import prepare
from .socket_kernel import SocketKernel
from .socket_stream import Flusher, SocketStream
from .wire import SocketChannel

STARTING_PROCESSES = {"os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"}
REHEARSAL_DELAY = 0.02  # seconds without a request after which a kernel gets ready for one
REHEARSAL = b"rehearsal"  # signs what no server sees

AppBase: Any = IPKernelApp  # whose annotations are for ZMQ's sockets


class SocketApp(AppBase):  # type: ignore[misc]
    """ipykernel's application, without connections."""

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Do nothing."""

    init_connection_file = init_poller = init_sockets = init_heartbeat = _nothing
    write_connection_file = log_connection_info = init_crash_handler = _nothing

    def init_io(self) -> None:
        """Make the display hook; the streams follow when there is a kernel."""
        self.iopub_socket, self.outstream_class = SocketChannel(IOPUB), None
        super().init_io()

    def init_kernel(self) -> None:
        """Make the kernel and its streams."""
        self.kernel = kernel = SocketKernel.instance(
            parent=self,
            session=self.session,
            iopub_socket=self.iopub_socket,
            shell_stream=SocketChannel(SHELL, with_next=True),  # an idle status follows
            control_stream=SocketChannel(CONTROL),
            log=self.log,
            profile_dir=self.profile_dir,
            user_ns=self.user_ns,
        )
        self.displayhook.get_execution_count = lambda: kernel.execution_count
        sys.stdout = SocketStream(self.session, self.iopub_socket, "stdout", 1)
        sys.stderr = SocketStream(self.session, self.iopub_socket, "stderr", 2)
        OutStream.register(SocketStream)  # others ask whether it is one


class Formed:
    """A kernel that is ready to be forked.

    Args:
        output_limit: max characters of one message's text; 0 is no limit.

    Attributes:
        info: the content of its `kernel_info_reply`.
    """

    def __init__(self, output_limit: int) -> None:
        before = dict(os.environ)
        self._app = app = SocketApp.instance()
        app.initialize([])
        changed = {
            name: before.get(name)
            for name, value in os.environ.items()
            if value != before.get(name)
        }
        self.kernel, self._shell = app.kernel, app.shell
        self._streams: list[Any] = [sys.stdout, sys.stderr]
        self._attach_guards = prepare(app.shell, [1, 2], changed, output_limit)
        self._branching = Branching(self.kernel, self._streams, self._attach_guards)
        self.info = {"status": "ok", **self.kernel.kernel_info}
        app.kernel.session.key = REHEARSAL
        self._attach_guards()
        rehearse_cells(self.kernel)
        sys.addaudithook(self._flush_before_processes)
        self._flush_before_exit()
        for stream in self._streams:
            os.register_at_fork(after_in_child=stream.after_fork_in_child)

    def _flush_before_processes(self, event: str, _: tuple[Any, ...]) -> None:
        """Keep the order of what is printed and of what other programs write."""
        if event in STARTING_PROCESSES:
            for stream in self._streams:
                stream.flush()

    def _flush_before_exit(self) -> None:
        """Let lines be seen that a cell prints just before it ends its process."""
        leave: Callable[[int], NoReturn] = os._exit
        replaced: Any = os

        @functools.wraps(leave)
        def flush_and_leave(status: int) -> NoReturn:
            for stream in self._streams:
                with contextlib.suppress(Exception):
                    stream.flush()
            leave(status)

        replaced._exit = flush_and_leave

    def all_is_loaded(self) -> None:
        """Get ready for many forks, now that all modules are loaded."""
        note_modules()
        rehearse_cells(self.kernel)
        rehearse_file(self.kernel)
        note_modules()
        self._branching.hooks.note()

    def take(self, stdout: int, stderr: int, messages: int, control: int) -> None:
        """Keep a kernel's descriptors, in its own process, where scripts don't meet them.

        Args:
            stdout: a pipe, the same as descriptor 1.
            stderr: a pipe, the same as descriptor 2.
            messages: a Unix socket for all channels but control.
            control: a Unix socket for control.
        """
        self.kernel.iopub_socket.pipes = (moved_up(stdout), moved_up(stderr))
        self._ends = [socket.socket(fileno=moved_up(each)) for each in (messages, control)]

    def run(self, key: bytes, take_mark: Callable[[str, int], None]) -> NoReturn:
        """Be a kernel, in a process of its own, until its end.

        Args:
            key: signs the messages.
            take_mark: gives a process a kernel's mark and the mark's number.
        """
        kernel = self.kernel
        self._branching.take_mark = take_mark
        self._shell.init_environment()  # as every IPython kernel, in this process's variables
        self._shell.starting_dir = os.getcwd()
        self._shell.user_ns["_dh"][:] = [Path.cwd()]
        self._app.init_gui_pylab()
        kernel.attach(*self._ends, key)
        self._attach_guards()
        if not kernel.has_request(REHEARSAL_DELAY):
            rehearse_file(kernel, 1)
        flusher = Flusher()
        for stream in self._streams:
            stream.attach(flusher)
        if (request := kernel.first_request()) is not None:
            kernel._context.run(run_at_once, kernel, request)
        kernel.run_forever(self._attach_guards)
        leave_kernel()
