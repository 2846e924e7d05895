"""Carries a kernel's messages over a websocket, between its server and jupyter_client's client.

When another websocket replaces a broken one, no request is sent twice, and output that may be
missing is reported. Knows messages; nothing about servers or when to reconnect.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import time
from collections import deque
from collections.abc import Callable

from jupyter_client.session import Session
from websockets.asyncio.client import ClientConnection
from websockets.typing import Subprotocol

from ..inside import LAST_REPLY
from ..protocol import CHANNELS, Message, QueuedChannel, QueuedClient, ends_kernel
from .delivery import Numbering, Request
from .wire_format import packed, unpacked

log = logging.getLogger(__name__)

FRESH = 1.0  # seconds after receiving data during which we trust the connection
PONG = 1.5  # timeout in seconds of the ping that checks it after that
LATE = 3.0  # seconds after reconnecting during which older messages may still arrive
# States a server reports for a kernel that it restarts by itself or gave up on. "starting" is the
# first status of a new process.
OVER = ("restarting", "autorestarting", "dead", "terminating", "starting")
CUT = (
    "\n[The connection to the Jupyter Server was cut: output may be missing here, or a question or"
    " its answer.]\n"
)
END_LOST = (
    "The connection to the Jupyter Server was cut, and how this run ended was lost with it: the"
    " code may have run completely, in part or not at all. Variables are kept."
)
NOT_ARRIVED = (
    "This did not run: the connection to the Jupyter Server was cut while the code was being sent."
    " Run it again, split if it is long (a server accepts 10 MB, or its"
    " websocket_max_message_size)."
)


class Channels:
    """All channels of a kernel, over whichever websocket is currently connected.

    Args:
        process: the session id in the messages of the kernel's process, if known.
        on_end: callback for when the process has ended or been replaced; gets the reason.
        passes: whether a message is for us; others share the kernel if it is somebody else's.
        note_sent: called with each message that is being sent.

    Attributes:
        process: the same, as soon as it is known.
        problems: connection problems to report with a run's result.
    """

    def __init__(
        self,
        process: str,
        on_end: Callable[[str], None],
        *,
        passes: Callable[[str, Message], bool] | None = None,
        note_sent: Callable[[Message], None] = lambda _: None,
    ) -> None:
        self.session = Session()
        self._passes, self._note_sent = passes, note_sent
        self.process, self._on_end = process, on_end
        self.by_name = {
            name: QueuedChannel(functools.partial(self.send, name)) for name in CHANNELS
        }
        self.problems: list[str] = []
        self._outbox: deque[tuple[str, Message]] = deque()
        self._to_send = asyncio.Event()
        self._connected: bool | None = None  # None: not yet
        self._cut_until = self._heard = 0.0
        self._run: Request | None = None  # the latest execute request sent
        self._requests: dict[str, Request] = {}  # by id; since the latest connection
        self._numbering = Numbering()

    @property
    def cut_until(self) -> float:
        """Until when messages may arrive late because of a cut, as `time.monotonic`."""
        return self._cut_until if self._connected else time.monotonic() + LATE

    def client(self) -> QueuedClient:
        """Return a jupyter_client client that uses these channels."""
        return QueuedClient(self.by_name, session=self.session)

    def send(self, channel: str, message: Message) -> None:
        """Queue a message; without a connection it waits for the next one."""
        self._outbox.append((channel, message))
        self._to_send.set()

    # -- sending and receiving

    async def carry(self, websocket: ClientConnection) -> None:
        """Carry messages both ways until the websocket closes.

        Raises:
            ConnectionClosed: it closed; raised in a group with any other errors.
        """
        again, self._connected = self._connected is not None, True
        self._heard = time.monotonic()
        self._cut_until = self._heard + LATE
        try:
            async with asyncio.TaskGroup() as tasks:
                if again:
                    tasks.create_task(self._catch_up(self._open_run()))
                tasks.create_task(self._receive_all(websocket))
                tasks.create_task(self._send_all(websocket))
        finally:
            self._connected = False

    async def _receive_all(self, websocket: ClientConnection) -> None:
        tcp = websocket.transport.get_extra_info("socket")
        while True:
            acknowledge_at_once(tcp)
            frame = await websocket.recv()
            self._heard = time.monotonic()
            self._take(websocket.subprotocol, frame)

    async def _send_all(self, websocket: ClientConnection) -> None:
        while True:
            while self._outbox:
                await self._assure(websocket)
                # If the connection breaks now, `_catch_up` finds out whether the message arrived.
                channel, message = self._outbox.popleft()
                if message["msg_type"] == "execute_request":
                    self._run = Request(message)
                elif channel == "stdin" and self._run is not None:
                    self._run.answering = True
                self._note_sent(message)
                await websocket.send(packed(self.session, websocket.subprotocol, channel, message))
            self._to_send.clear()
            await self._to_send.wait()

    async def _assure(self, websocket: ClientConnection) -> None:
        """Ping a quiet connection, and close it if dead, rather than lose a message in it.

        Raises:
            ConnectionClosed: the connection was dead.
        """
        if time.monotonic() - self._heard > FRESH:
            too_late = asyncio.get_running_loop().call_later(PONG, websocket.transport.abort)
            try:
                await (await websocket.ping())
            finally:
                too_late.cancel()
            self._heard = time.monotonic()

    def _take(self, protocol: Subprotocol | None, frame: str | bytes) -> None:
        try:
            name, message = unpacked(self.session, protocol, frame)
            self.by_name[name]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            log.warning("Dropped an unreadable message from a Jupyter Server: %r", error)
            return
        if self._is_of_this_process(name, message):
            self._deliver(name, message, len(frame))

    def _deliver(self, name: str, message: Message, size: int) -> None:
        parent, run = str(message["parent_header"].get("msg_id")), self._open_run()
        lacks = self._numbering.lacks(name, message, run)
        if self._passes is not None and not self._passes(name, message):
            return
        if run is not None and parent == run.msg_id:
            if run.cut and lacks:
                self._mark_cut(run, str(message["content"].get("name")))
            run.take(name, message)
        elif request := self._requests.get(parent):
            request.take(name, message)
        if self.by_name[name].put(message, size):
            self._report("Output that came while nothing ran was too much to keep, and is lost.")
        if run is not None and run.over.is_set() and run.reply and ends_kernel(run.reply):
            self._on_end("The code ended it.")

    def _open_run(self) -> Request | None:
        return self._run if self._run is not None and not self._run.over.is_set() else None

    def _mark_cut(self, run: Request, stream: str = "stdout") -> None:
        """Insert a notice of the cut into a run's output, at this point of a stream."""
        run.cut = False
        content = {"name": stream, "text": CUT}
        message = self.session.msg("stream", content, parent=run.message["header"])
        self.by_name["iopub"].put(message, len(CUT))

    def _report(self, what: str) -> None:
        if what not in self.problems:
            self.problems.append(what)

    def _is_of_this_process(self, channel: str, message: Message) -> bool:
        """Return whether the message is from the same process: servers restart dead kernels."""
        kind, sender = message["msg_type"], message["header"].get("session")
        state = message["content"].get("execution_state") if kind == "status" else None
        is_late = state == "starting" and sender == self.process  # its own first status
        if state in OVER and self.process and not is_late:
            self._on_end("Its process has ended.")
            return False
        if channel not in ("shell", "control") or not sender or sender == self.session.session:
            return True  # a kernel that echoes our session id can't be identified
        self.process = self.process or sender
        if self.process != sender:
            self._on_end("Its process has ended, and its server has started another.")
        return bool(self.process == sender)

    # -- after a cut

    async def _catch_up(self, run: Request | None) -> None:
        """Find out what became of a run that was cut, and whether the kernel is the same.

        Kernels answer requests in order: a request still open when a later one is answered was
        lost.
        """
        if run is not None:
            run.cut = True
            if run.answering:  # it may wait forever
                self._mark_cut(run)
        self._requests.clear()
        last = None
        if run is not None and self._passes is None:  # a kernel of ours: it is set up to tell
            last = self._request(LAST_REPLY, {"msg_id": run.msg_id})
        fence = self._request("kernel_info_request", {})
        await fence.over.wait()
        if run is not None and run is self._open_run():
            self._make_up_end(run, last.reply if last is not None else None)

    def _request(self, kind: str, content: dict[str, str]) -> Request:
        request = Request(self.session.msg(kind, content))
        self._requests[request.msg_id] = request
        self.send("shell", request.message)
        return request

    def _make_up_end(self, run: Request, last_reply: Message | None) -> None:
        """Fabricate a run's lost reply and idle status, so that its caller stops waiting."""
        known = last_reply["content"] if last_reply is not None else {}
        lost = known.get("arrived") is False and not run.started
        if run.cut and not lost:
            self._mark_cut(run)
        run.cut = False
        parent = run.message["header"]
        if run.reply is None:
            content = known.get("reply")
            if not isinstance(content, dict):
                self._report(NOT_ARRIVED if lost else END_LOST)
                content = {"status": "error", "ename": "ConnectionLost"}
            self._deliver("shell", self.session.msg("execute_reply", content, parent), 0)
        idle = self.session.msg("status", {"execution_state": "idle"}, parent)
        self._deliver("iopub", idle, 0)


def acknowledge_at_once(tcp: socket.socket | None) -> None:
    """Turn off delayed TCP acknowledgements, which slow down Tornado.

    Tornado sends each small message only after the last was acknowledged (Nagle), and Linux may
    delay that by 40 ms. The option is not permanent, so set it again before each read.
    """
    if tcp is not None and hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):  # closed meanwhile
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
