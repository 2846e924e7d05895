"""Forks a live kernel: the branch has all variables of its origin, and sockets of its own.

Between two cells the server asks for it by a `fork_request`. If the reply says that it can be done,
the server sends a frame on the channel `BRANCH` with the branch's descriptors: its sockets for
messages and for control, its pipes for 1 and 2, and a connection on which the branch reports its
pid. The branch's parent exits at once, so that the template adopts it, like any kernel of its own.

A branch that is to sleep then waits on that connection for a byte, or ends when it is closed.

Executed in a template, like `setup.py`; knows nothing of servers and sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import os
import signal
import socket
import struct
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from itertools import islice
from time import sleep  # cells replace those of the module
from typing import Any

from .branch_changes import changing, going_on, too_large
from .branch_descriptors import LISTED, lost_connections, open_files, replace_shared
from .branch_hooks import ForkHooks
from .branch_libraries import forget_exit_handlers, forget_parents_work
from .branch_losses import lost_in_fork, obstacle, unforked_memory
from .frames import BRANCH
from .kernel_loop import with_new_descriptors
from .script_environment import moved_up
from .socket_kernel import CONTROL_THREAD
from .socket_stream import FLUSH_THREAD, Flusher
from .wire import uninterrupted

HANDED_OVER = 5  # descriptors
HANDING_OVER = 10.0  # max seconds until they arrive
REAPED_AFTER = 0.2  # seconds until a branch's parent, which has exited, is reaped at the latest
BECOMING = 10  # max seconds until a branch has reported its pid: a lock may be held for good
ADOPTION = 0.0002  # seconds between looks whether the template has adopted it
CHANGES_MOST = 5  # max reasons that are named
OWN_THREADS = (CONTROL_THREAD, FLUSH_THREAD)
REPORT = struct.Struct("!ci")  # b"p" and the pid, or b"x" and why there is none, by errno
BRANCH_PAYLOAD = "rmi_agent.branch"
fork_process, wait_for_process = os.fork, os.waitpid  # cells may replace them
leave_at_once = os._exit  # which a formed kernel replaces by one that flushes


class Branching:
    """Forks a kernel when its server asks for it.

    Args:
        kernel: a `SocketKernel`.
        streams: its standard streams.
        attach_guards: to be called in the process of a branch, once it has its sockets.

    Attributes:
        take_mark: marks the process of a branch, given the mark and its number.
        hooks: what is registered to run at forks.
    """

    def __init__(self, kernel: Any, streams: list[Any], attach_guards: Callable[[], None]) -> None:
        self._kernel, self._streams, self._attach_guards = kernel, streams, attach_guards
        self.take_mark: Callable[[str, int], None] = lambda _, __: None
        self.hooks = ForkHooks()
        self._forking = False
        self._shared: list[str] = []  # files that this branch could not open again
        self._alarm: Any = None  # the user's handler of SIGALRM
        self._parent = 0  # of the last branch: a process that exits at once
        self._waiting: asyncio.TimerHandle  # while descriptors are expected
        kernel.shell_handlers["fork_request"] = self.fork_request
        kernel.shell._rmi_agent_branch = self.check
        os.register_at_fork(after_in_child=self._limit_time)

    # -- in the origin

    async def fork_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """Say whether the kernel can be forked, and what the fork would lack; then wait for it."""
        try:
            content = self._answer(parent["content"].get("for_death") or 0)
        except Exception as error:  # cells may have left no descriptor, or no /proc
            why = f"What it has can't be looked at: {type(error).__name__}: {error}."
            content = {"status": "refused", "why": why}

        def reply(_: object) -> None:
            if content["status"] == "ok":
                self._listen(self._readable)
                later = self._kernel._loop.call_later
                self._waiting = later(HANDING_OVER, self._read_as_usual)
            self._kernel.session.send(stream, "fork_reply", content, parent, ident=ident)
            self._kernel._wire.flush()  # no status follows

        # Once nothing runs, since whatever runs then goes on in both.
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(reply)

    def _answer(self, for_death: int) -> dict[str, Any]:
        own, names = self._own_descriptors(), self._kernel.shell.user_ns
        if why := obstacle() or (for_death and self._unlike_later(own, for_death)):
            return {"status": "refused", "why": why}
        lost = [*lost_in_fork(names, OWN_THREADS), *islice(lost_connections(own), LISTED)]
        if not for_death:  # else it would be refused
            lost += unforked_memory()
        return {"status": "ok", "lost": lost, "files": list(open_files(own))}

    def _unlike_later(self, own: set[int], most: int) -> str:
        """Why a copy made now might not be as this kernel is when it dies; empty if nothing."""
        if why := too_large(most):
            return why
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        changes = [
            *lost_connections(own),
            *changing(own, OWN_THREADS, self._kernel.iopub_socket.pipes),
            *going_on(tasks, self._kernel._loop._scheduled),
            *self.hooks.of_the_user(),
        ]
        changes = changes or [*unforked_memory()]
        return f"It has {', '.join(changes[:CHANGES_MOST])}." if changes else ""

    def _listen(self, readable: Callable[[], None]) -> None:
        kernel = self._kernel
        contextvars.Context().run(kernel._loop.add_reader, kernel._wire.end, readable)

    def _read_as_usual(self) -> None:
        self._waiting.cancel()
        self._listen(self._kernel._readable)

    def _readable(self) -> None:
        """Read messages as the kernel does, but take descriptors that come with them."""
        kernel = self._kernel
        descriptors: list[int] = []
        try:
            arrived = uninterrupted(self._receive, descriptors)
            if arrived is None:
                kernel._end()
                return
            orders = [parts for channel, parts in arrived if channel == BRANCH]
            kernel._sort(arrived)
            kernel._handle_waiting()
            if orders:
                self._read_as_usual()
                busy = kernel._running or kernel._main_asyncio_lock.locked()
                if len(descriptors) == HANDED_OVER and not busy:
                    uninterrupted(self._fork, json.loads(orders[0][0]), descriptors)
        finally:
            for each in descriptors:
                os.close(each)

    def _readable_again(self) -> None:
        """Read messages, but first reap the branch's parent, which no cell shall see."""
        self._reap()
        self._kernel._readable()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):  # SIGCHLD is ignored
            uninterrupted(wait_for_process, self._parent, 0)
        self._read_as_usual()

    def _receive(self, descriptors: list[int]) -> Any:
        wire = self._kernel._wire
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        try:
            data, found, _, _ = socket.recv_fds(wire.end, 1 << 20, HANDED_OVER, flags)
        except BlockingIOError:
            return []
        descriptors += found
        return wire._frames.feed(data) if data else None

    def _own_descriptors(self) -> set[int]:
        """The descriptors of this kernel's that are not the user's."""
        kernel, loop = self._kernel, self._kernel._loop
        ends = (kernel._wire.end, kernel._control.end, loop._selector, loop._ssock, loop._csock)
        shared = {kernel._wire._shared, kernel._control._shared}
        return {each.fileno() for each in ends} | set(kernel.iopub_socket.pipes) | shared

    def _fork(self, order: dict[str, Any], descriptors: list[int]) -> None:
        """Fork twice; returns in this process, and in the branch as a kernel of its own."""
        for stream in self._streams:
            stream.flush()
        random: Any = sys.modules.get("random")  # forked processes seed it anew
        state = random.getstate() if random is not None else None
        wakeup = signal.set_wakeup_fd(-1)
        template, self._forking = os.getppid(), True
        self._alarm = signal.getsignal(signal.SIGALRM)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of threads
                child = fork_process()
        except OSError as error:  # no memory, or too many processes
            self._forking = False
            signal.set_wakeup_fd(wakeup)
            os.write(descriptors[-1], REPORT.pack(b"x", error.errno or 0))
            return
        if child:
            self._forking = False
            signal.set_wakeup_fd(wakeup)
            # Its end takes as long as the fork, so the kernel goes on meanwhile.
            self._parent = child
            self._listen(self._readable_again)
            self._waiting = self._kernel._loop.call_later(REAPED_AFTER, self._reap)
            return
        try:
            if fork_process():
                leave_at_once(0)
            os.setsid()
            while os.getppid() != template:
                sleep(ADOPTION)
            given = [moved_up(each) for each in descriptors]
            while descriptors:
                os.close(descriptors.pop())
            self._become(order, given, wakeup)
            self._forking = False
            self._lift_limit()
            with socket.socket(fileno=given[-1]) as report:
                report.sendall(REPORT.pack(b"p", os.getpid()))
                if order["sleeps"]:
                    sleep_until_woken(report)
            if state is not None:
                random.setstate(state)
        except BaseException:
            os.write(2, traceback.format_exc().encode("utf-8", "replace"))
            leave_at_once(70)  # EX_SOFTWARE

    def _limit_time(self) -> None:
        """End a branch that takes too long: locks that were held at the fork may stay so."""
        if self._forking:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
            signal.alarm(BECOMING)

    # -- in the branch

    def _lift_limit(self) -> None:
        signal.alarm(0)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})  # as `uninterrupted` has it
        if self._alarm is not None:
            signal.signal(signal.SIGALRM, self._alarm)

    def _become(self, order: dict[str, Any], given: list[int], wakeup: int) -> None:
        """Become a kernel of its own, with its descriptors."""
        kernel, loop = self._kernel, self._kernel._loop
        messages, control, stdout, stderr, _ = given
        self.take_mark(order["mark"], order["number"])
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        readers = [each for each in loop._selector.get_map().values() if goes_on(each)]
        wakes_loop = wakeup == loop._csock.fileno()
        # Its selector is shared with the origin's, so nothing may be unregistered there.
        selector, pair = loop._selector, (loop._ssock.fileno(), loop._csock.fileno())
        if not with_new_descriptors(loop, []):
            raise RuntimeError("the event loop is not as expected")
        selector.close()
        for end in (kernel._wire.end, kernel._control.end):
            end.close()
        shared = {kernel._wire._shared, kernel._control._shared} - {-1}
        for number in (*pair, *kernel.iopub_socket.pipes, *shared):
            os.close(number)
        new = (loop._selector, loop._ssock, loop._csock)
        self._shared = replace_shared({*given, *(each.fileno() for each in new)})
        asyncio._set_running_loop(None)  # it is known with the origin's pid
        asyncio._set_running_loop(loop)
        asyncio.set_event_loop(loop)
        signal.set_wakeup_fd(loop._csock.fileno() if wakes_loop else wakeup)
        forget_parents_work()
        if not order["sleeps"]:  # else it goes on in its origin's place
            forget_exit_handlers()
        ends = [socket.socket(fileno=each) for each in (messages, control)]
        kernel.become_new(*ends, order["key"].encode())
        kernel.iopub_socket.pipes = (stdout, stderr)
        self._attach_guards()
        flusher = Flusher()
        for stream in self._streams:
            stream.attach(flusher)
        for each in readers:
            loop._selector.register(each.fileobj, each.events, each.data)

    def check(self) -> None:
        """Show in a cell that this branch works, and say what it shares with its origin."""
        started = threading.Event()
        threading.Thread(target=started.set, daemon=True).start()
        content = {"source": BRANCH_PAYLOAD, "threads": started.wait(2), "shared": self._shared}
        self._kernel.shell.payload_manager.write_payload(content)
        stdout = self._streams[0]  # whatever the user has put in `sys.stdout`
        stdout.write("ready\n")
        stdout.flush()


def sleep_until_woken(report: socket.socket) -> None:
    """Wait for a byte; ends this process if nobody can send one any more.

    Meanwhile the system takes this process first when memory is short.
    """
    before = set_score("1000")
    try:
        woken = report.recv(1)
    except OSError:
        woken = b""
    if not woken:
        leave_at_once(0)
    set_score(before)


def set_score(score: str) -> str:
    """How soon the system ends this process when memory is short; returns the score before."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        before = file.read()
        file.seek(0)
        file.write(score)
        return before
    return "0"


def goes_on(key: Any) -> bool:
    """Whether what waits for a descriptor should see its end: `asyncio`'s transports do.

    Others might be called for ever, as what they wait for reads as ended from now on.
    """
    callbacks = [handle._callback for handle in key.data if handle is not None]
    for callback in callbacks:
        owner = type(getattr(callback, "__self__", None))
        name = getattr(callback, "__name__", "")
        if owner.__module__.partition(".")[0] != "asyncio" or "Datagram" in owner.__name__:
            return False
        if name in ("_accept_connection", "_read_from_self"):
            return False
    return True
