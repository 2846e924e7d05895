"""A kernel's channels over one websocket, as jupyter_client's clients expect channels.

Speaks Jupyter's websocket protocol in both its forms. Knows messages and frames; nothing of
servers, of processes, or of when to connect again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
from collections import deque
from collections.abc import Callable
from queue import Empty
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.jsonutil import json_default
from jupyter_client.session import Session
from websockets.asyncio.client import ClientConnection
from websockets.typing import Subprotocol

from .reply import Message

log = logging.getLogger(__name__)

# https://jupyter-server.readthedocs.io/en/latest/developers/websocket-protocols.html
V1 = Subprotocol("v1.kernel.websocket.jupyter.org")
NAMES = ("shell", "iopub", "stdin", "control")
PARTS = ("header", "parent_header", "metadata", "content")
KEPT = 32_000_000  # bytes of messages that wait for a reader; late output of an idle session
WORD = 8  # bytes of a number in a frame
# What a server calls a kernel that it starts again by itself, and one that it gave up. The last is
# the first word of a new process.
OVER = ("restarting", "autorestarting", "dead", "terminating", "starting")


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
        on_end: told when the process has ended or been replaced, with why.

    Attributes:
        process: the same, as soon as it is known.
    """

    def __init__(self, process: str, on_end: Callable[[str], None]) -> None:
        self.session = Session()
        self.process, self._on_end = process, on_end
        self.by_name = {name: Channel(name, self) for name in NAMES}
        self._outbox: deque[tuple[str, Message]] = deque()
        self._to_send = asyncio.Event()

    def client(self) -> AsyncKernelClient:
        """A client of jupyter_client's over these channels."""
        return Client(self, session=self.session)

    def send(self, channel: str, message: Message) -> None:
        """Put a message into the outbox."""
        self._outbox.append((channel, message))
        self._to_send.set()

    async def carry(self, websocket: ClientConnection) -> None:
        """Bring messages to and fro until the websocket closes.

        Raises:
            ConnectionClosed: it did.
        """
        sending = asyncio.create_task(self._send_all(websocket))
        tcp = websocket.transport.get_extra_info("socket")
        try:
            while True:
                acknowledge_at_once(tcp)
                self._take(websocket.subprotocol, await websocket.recv())
        finally:
            sending.cancel()
            await asyncio.wait({sending})

    async def _send_all(self, websocket: ClientConnection) -> None:
        while True:
            while self._outbox:
                channel, message = self._outbox[0]
                await websocket.send(packed(self.session, websocket.subprotocol, channel, message))
                self._outbox.popleft()
            self._to_send.clear()
            await self._to_send.wait()

    def _take(self, protocol: Subprotocol | None, frame: str | bytes) -> None:
        try:
            name, message = unpacked(self.session, protocol, frame)
            channel = self.by_name[name]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            log.warning("An unreadable message of a Jupyter Server was dropped: %r", error)
            return
        if self._is_of_this_process(name, message):
            channel.put(message, len(frame))

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
        return self.process == sender


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


def packed(
    session: Session, protocol: Subprotocol | None, channel: str, message: Message
) -> str | bytes:
    """A message as a frame: binary with offsets in `v1`, else JSON."""
    if protocol != V1:
        whole = {part: message[part] for part in PARTS} | {"channel": channel, "buffers": []}
        return json.dumps(whole, default=json_default)
    parts = [channel.encode(), *(session.pack(message[part]) for part in PARTS)]
    offsets = [WORD * (len(parts) + 2)]
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    numbers = [len(offsets), *offsets]
    return b"".join([*(number.to_bytes(WORD, "little") for number in numbers), *parts])


def unpacked(
    session: Session, protocol: Subprotocol | None, frame: str | bytes
) -> tuple[str, Message]:
    """A frame's channel and message; buffers are left out, since no output has any use for them.

    Raises:
        ValueError: it is none, or as KeyError, TypeError, IndexError and RecursionError.
    """
    if protocol != V1:
        if isinstance(frame, bytes):  # with buffers: their number, where each begins, then JSON
            count, begin, end = (int.from_bytes(frame[i : i + 4], "big") for i in (0, 4, 8))
            frame = frame[begin : end if count > 1 else None]
        whole = json.loads(frame)
        return str(whole["channel"]), shaped({part: whole[part] for part in PARTS})
    if isinstance(frame, str):
        raise ValueError("text where bytes were agreed on")
    offsets = [int.from_bytes(frame[WORD * i : WORD * (i + 1)], "little") for i in range(1, 7)]
    name, *parts = (frame[a:b] for a, b in itertools.pairwise(offsets))
    return name.decode(), shaped(
        {part: session.unpack(text) for part, text in zip(PARTS, parts, strict=True)}
    )


def shaped(message: Message) -> Message:
    """With what jupyter_client repeats of the header on top.

    Raises:
        ValueError: a part is no object.
    """
    if not all(isinstance(message[part], dict) for part in PARTS):
        raise ValueError("a part of the message is no object")
    header = message["header"]
    return {**message, "msg_id": header["msg_id"], "msg_type": header["msg_type"], "buffers": []}
