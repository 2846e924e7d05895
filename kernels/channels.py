"""A kernel's channels over a websocket, as jupyter_client's clients expect channels.

Nothing is lost or doubled when one websocket breaks and another takes over, as far as the server
or the kernel still has it. Knows messages; nothing of servers or of when to connect again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.session import Session
from websockets.asyncio.client import ClientConnection
from websockets.typing import Subprotocol

from .frames import PARTS, packed, shaped, unpacked
from .inrecall import NUMBER, RECALL
from .ledger import Ledger, Request
from .reply import Message, ends_kernel

log = logging.getLogger(__name__)

NAMES = ("shell", "iopub", "stdin", "control")
KEPT = 32_000_000  # bytes of messages that wait for a reader; late output of an idle session
PATIENCE = 5.0  # seconds for a kernel to say what it had sent
# What a server calls a kernel that it starts again by itself, and one that it gave up. The last is
# the first word of a new process.
OVER = ("restarting", "autorestarting", "dead", "terminating", "starting")


TOO_LONG = (
    "This did not run: the Jupyter Server cuts the connection when it is sent. It may be longer"
    " than the server takes (10 MB, unless its tornado_settings have a websocket_max_message_size)."
)
END_LOST = (
    "The connection to the Jupyter Server was cut, and the end of this run was lost with it: the"
    " code may have run to its end or in part. Variables are kept."
)


class Channel:
    """One channel: messages that wait to be read, and a way to send."""

    def __init__(self, name: str, channels: Channels) -> None:
        self.name = name
        self._channels = channels
        self._waiting: deque[tuple[Message, int]] = deque()
        self._size = 0
        self._come = asyncio.Event()
        self._alive = False

    def start(self) -> None:
        """Nothing but a mark: the websocket is open already."""
        self._alive = True

    def stop(self) -> None:
        """Nobody will read here any more."""
        self._alive = False

    def is_alive(self) -> bool:
        """Whether it was started and not stopped."""
        return self._alive

    def send(self, message: Message) -> None:
        """Send soon; what is sent while there is no connection goes with the next one."""
        self._channels.send(self.name, message)

    def put(self, message: Message, size: int) -> int:
        """Keep a message for its reader; returns how many older ones had to go for it."""
        dropped = 0
        self._waiting.append((message, size))
        self._size += size
        while self._size > KEPT and len(self._waiting) > 1:
            self._size -= self._waiting.popleft()[1]
            dropped += 1
        self._come.set()
        return dropped

    async def get_msg(self, timeout: float | None = None) -> Message:
        """The next message.

        Raises:
            Empty: none came within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self._waiting:
                    self._come.clear()
                    await self._come.wait()
        except TimeoutError:
            raise Empty from None
        message, size = self._waiting.popleft()
        self._size -= size
        return message


class Channels:
    """All channels of a kernel, over whatever websocket carries them at the time.

    Args:
        process: what the kernel's messages call its process, if that is known.
        on_end: called when the process has ended or been replaced, with why.

    Attributes:
        process: the same, as soon as it is known.
        whole: whether they are connected, and all has come that may come.
        news: what the reader of a run's result has to know of the connection.
    """

    def __init__(self, process: str, on_end: Callable[[str], None]) -> None:
        self.session = Session()
        self.process, self._on_end = process, on_end
        self.by_name = {name: Channel(name, self) for name in NAMES}
        self.whole = False
        self.news: list[str] = []
        self._ledger = Ledger()
        self._outbox: deque[tuple[str, Message]] = deque()
        self._to_send = asyncio.Event()
        self._held: list[tuple[str, Message, int]] | None = None  # until those before have come
        self._answer: Message | None = None  # to the kernel's question; nothing has come since
        self._used = False

    def client(self) -> AsyncKernelClient:
        """A client of jupyter_client's over these channels."""
        return Client(self, session=self.session)

    def send(self, channel: str, message: Message) -> None:
        """Put a message into the outbox."""
        if message["msg_type"] == "execute_request":
            self._ledger.asks(message)
        if channel == "stdin":
            self._answer = message
        self._outbox.append((channel, message))
        self._to_send.set()

    # -- to and fro

    async def carry(self, websocket: ClientConnection) -> None:
        """Bring messages to and fro until the websocket closes.

        Raises:
            ConnectionClosed: it did, in a group with whatever else went wrong.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive_all(websocket))
                tasks.create_task(self._send_all(websocket))
                if self._used:
                    self._held = self._held or []
                    tasks.create_task(self._catch_up())
                self.whole = not self._used
                self._used = True
        finally:
            self.whole = False

    async def _receive_all(self, websocket: ClientConnection) -> None:
        tcp = websocket.transport.get_extra_info("socket")
        while True:
            acknowledge_at_once(tcp)
            self._take(websocket.subprotocol, await websocket.recv())

    async def _send_all(self, websocket: ClientConnection) -> None:
        while True:
            while self._outbox:
                # Whether it arrives if the connection breaks now, `_catch_up` finds out.
                channel, message = self._outbox.popleft()
                await websocket.send(packed(self.session, websocket.subprotocol, channel, message))
            self._to_send.clear()
            await self._to_send.wait()

    def _take(self, protocol: Subprotocol | None, frame: str | bytes) -> None:
        try:
            name, message = unpacked(self.session, protocol, frame)
            self.by_name[name]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            log.warning("An unreadable message of a Jupyter Server was dropped: %r", error)
            return
        if not self._is_of_this_process(name, message):
            return
        if self._held is not None and name != "control":
            self._held.append((name, message, len(frame)))
        else:
            self._deliver(name, message, len(frame))

    def _deliver(self, name: str, message: Message, size: int) -> None:
        parent = message["parent_header"].get("msg_id")
        ran = self._ledger.open.get(parent)
        if not self._ledger.came(name, message):
            return
        if ran is not None and ran.message["msg_type"] == "execute_request":
            self._answer = None
        if self.by_name[name].put(message, size):
            self._tell("Output that came while nothing ran was too much to keep, and is gone.")
        if ran is None:
            return
        if ran.reply is not None and ran.over.is_set() and ends_kernel(ran.reply):
            self._on_end("The code ended it.")
        if self.whole and ran.idle and (gone := self._ledger.write_off()):
            self._tell(
                f"The Jupyter Server has left out {gone} messages of output: it limits how much"
                " it passes on (its iopub_msg_rate_limit and iopub_data_rate_limit)."
            )

    def _tell(self, what: str) -> None:
        if what not in self.news:
            self.news.append(what)

    def _is_of_this_process(self, channel: str, message: Message) -> bool:
        """Whether it is the kernel that it was: servers start dead ones again by themselves."""
        kind, sender = message["msg_type"], message["header"].get("session")
        if kind == "status" and message["content"].get("execution_state") in OVER and self.process:
            self._on_end("Its process has ended.")
            return False
        if channel not in ("shell", "control") or not sender or sender == self.session.session:
            return True  # a kernel that repeats our own name there can't be told apart
        self.process = self.process or sender
        if self.process != sender:
            self._on_end("Its process has ended, and its server has started another.")
        return bool(self.process == sender)

    # -- after a cut

    async def _catch_up(self) -> None:
        """Get what was on its way when the connection broke, from a kernel that remembers.

        A kernel that answers a later request has answered those before: what is open then is lost.
        """
        waiting = list(self._ledger.open.values())
        fence = self._ask("shell", "kernel_info_request", {})
        complete = await self._recall(waiting)
        self.release()
        if waiting and not self._ledger.numbered:
            self._tell("The connection was cut meanwhile: some of the output may be missing.")
        self.whole = True
        if self._answer is not None and self._ledger.numbered and waiting:
            self._outbox.append(("stdin", self._answer))  # it drops those that it did not ask for
            self._to_send.set()
        await fence.over.wait()
        if any(not request.over.is_set() for request in waiting):
            complete = await self._recall(waiting) and complete
        for request in waiting:
            if request.over.is_set():
                continue
            if complete and not request.begun and not request.repeated:
                self.send("shell", request.message)
                self._ledger.open[request.message["header"]["msg_id"]].repeated = True
            else:
                self._make_up_end(request)

    async def _recall(self, waiting: list[Request]) -> bool:
        """Ask for what did not come; whether that is all now."""
        if not self._ledger.numbered:
            return False
        asked = {
            "after": self._ledger.through,
            "have": sorted(self._ledger.above),
            "unanswered": [request.message["header"]["msg_id"] for request in waiting],
        }
        request = self._ask("control", RECALL, asked)
        try:
            async with asyncio.timeout(PATIENCE):
                await request.replied.wait()
        except TimeoutError:  # in the hands of C code, a kernel can't answer; it can't send, either
            return False
        finally:
            self._ledger.open.pop(request.message["header"]["msg_id"], None)
        assert request.reply is not None
        try:
            found = recalled(request.reply["content"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            log.warning("A kernel's memory of what it had sent is of no use: %r", error)
            return False
        # In their order, and with those that have come meanwhile.
        held = [*found.messages, *(self._held or ())]
        self._held = None
        for name, message, size in sorted(held, key=lambda each: order(*each[:2])):
            self._deliver(name, message, size)
        self._ledger.above.update(found.void)
        if gone := self._ledger.write_off(found.oldest):
            self._tell(f"The connection was cut, and {gone} messages of output were lost with it.")
        return not gone

    def release(self) -> None:
        """Pass on what waits for messages before it: they will not come any more."""
        held, self._held = self._held or (), None
        for each in held:
            self._deliver(*each)

    def _ask(self, channel: str, kind: str, content: dict[str, Any]) -> Request:
        message = self.session.msg(kind, content)
        request = self._ledger.asks(message)
        self._outbox.append((channel, message))
        self._to_send.set()
        return request

    def _make_up_end(self, request: Request) -> None:
        """Let the caller that waits for a run go on: its end was lost."""
        self._tell(TOO_LONG if request.repeated and not request.begun else END_LOST)
        parent, ename = request.message["header"], "ConnectionLost"
        reply = self.session.msg("execute_reply", {"status": "error", "ename": ename}, parent)
        idle = self.session.msg("status", {"execution_state": "idle"}, parent)
        for name, message in (("shell", reply), ("iopub", idle)):
            self._deliver(name, message, 0)


@dataclass(frozen=True)
class Recalled:
    """What a kernel remembers, as `inrecall.py` tells it.

    Attributes:
        messages: those that were asked for, with their channels and sizes.
        oldest: the lowest number that it still knows.
        void: numbers that were never sent.
    """

    messages: list[tuple[str, Message, int]]
    oldest: int
    void: list[int]


def recalled(content: dict[str, Any]) -> Recalled:
    """Read it out of the reply's content.

    Raises:
        ValueError: it can't be, or as KeyError, TypeError or AttributeError.
    """
    messages = []
    for name, *parts in content["messages"]:
        if name not in NAMES:
            raise ValueError(f"no channel: {name!r}")
        messages.append((name, shaped(dict(zip(PARTS, parts, strict=True))), len(str(parts))))
    return Recalled(messages, int(content["oldest"]), [int(number) for number in content["void"]])


def order(name: str, message: Message) -> tuple[bool, int]:
    """Numbered messages by their numbers, the others behind them as they came."""
    number = message["metadata"].get(NUMBER)
    return (False, number) if name == "iopub" and isinstance(number, int) else (True, 0)


def acknowledge_at_once(tcp: socket.socket | None) -> None:
    """Let the system not wait before it tells that something came, since Tornado waits for that.

    It sends small messages one after the other, each when the last was acknowledged (Nagle), and
    Linux likes to take 40 ms for that. The option holds for a while only.
    """
    if tcp is not None and hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):  # closed meanwhile
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class Client(AsyncKernelClient):
    """jupyter_client's client, with its messages over a websocket instead of ZMQ."""

    def __init__(self, channels: Channels, **traits: Any) -> None:
        super().__init__(**traits)
        self._channels = channels

    @property
    def shell_channel(self) -> Channel:
        """Requests and their replies."""
        return self._channels.by_name["shell"]

    @property
    def iopub_channel(self) -> Channel:
        """What the kernel publishes."""
        return self._channels.by_name["iopub"]

    @property
    def stdin_channel(self) -> Channel:
        """The kernel's questions."""
        return self._channels.by_name["stdin"]

    @property
    def control_channel(self) -> Channel:
        """Requests that do not wait for a run to end."""
        return self._channels.by_name["control"]

    @property
    def hb_channel(self) -> Channel:
        """None of its own: the websocket's pings tell whether the other side is there."""
        return self._channels.by_name["control"]
