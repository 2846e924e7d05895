"""ZMQ sockets for other Jupyter clients of a kernel that has none: `jupyter console --existing`.

They are made when the first of these clients is expected, here and not in the kernel: messages are
passed on over the kernel's own connection as they are, signatures included. Knows sockets and
frames; nothing of what is in a message but whom it answers.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import zmq.asyncio
from jupyter_client.connect import write_connection_file
from jupyter_client.session import DELIM

from ..inside import CONTROL, IOPUB, SHELL, STDIN, frame
from ..supervision import Supervisor
from .socket_client import SocketClient

log = logging.getLogger(__name__)

OUTSIDE = b"outside"  # precedes the identities of their messages
REQUESTS = {"shell": SHELL, "control": CONTROL, "stdin": STDIN}
PORTS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
SIGNED_PARTS = 4  # headers, metadata and content follow the signature
PARENT = 3  # how many parts after the delimiter the parent's header is


class OutsideClients:
    """The sockets, and what passes messages on between them and a kernel.

    Args:
        client: our own client of the kernel.
        place: path of the connection file and the sockets, without a suffix.
        was_used: called at each of the other clients' requests.

    Raises:
        OSError: the file or the sockets can't be made.

    Attributes:
        file: the connection file.
    """

    def __init__(self, client: SocketClient, place: Path, was_used: Callable[[], None]) -> None:
        self._client, self._was_used = client, was_used
        self._tasks = Supervisor("other clients of a kernel")
        self._context = zmq.asyncio.Context()
        self._sockets: dict[bytes, zmq.asyncio.Socket] = {}
        self._session = json.dumps(client.session.session).encode()
        self._paths = [Path(f"{place}-{port}") for port in PORTS.values()]
        self.file = place.with_suffix(".json")
        with contextlib.ExitStack() as undo:
            undo.callback(self._remove)
            for name, byte in REQUESTS.items():
                self._sockets[byte] = self._bound(zmq.ROUTER, place, name)
            self._sockets[IOPUB] = self._bound(zmq.PUB, place, "iopub")
            self._heartbeat = self._bound(zmq.REP, place, "hb")
            write_connection_file(
                str(self.file),
                shell_port=PORTS["shell"],
                iopub_port=PORTS["iopub"],
                stdin_port=PORTS["stdin"],
                control_port=PORTS["control"],
                hb_port=PORTS["hb"],
                transport="ipc",
                ip=str(place),
                key=client.session.key,
            )
            undo.pop_all()
        for link in (client.messages, client.control):
            link.take = self._take
        for byte in REQUESTS.values():
            self._tasks.watch(lambda byte=byte: self._pass_on(byte), "passing on their messages")  # type: ignore[misc]
        self._tasks.watch(self._beat, "answering their heartbeats")

    def _bound(self, kind: int, place: Path, name: str) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.linger = 0
        try:
            socket.bind(f"ipc://{place}-{PORTS[name]}")
        except zmq.ZMQError as error:
            raise OSError(error.errno, error.strerror) from error
        return socket

    async def _pass_on(self, channel: bytes) -> None:
        """Pass their requests and answers on to the kernel."""
        link = self._client.control if channel == CONTROL else self._client.messages
        while True:
            parts = await self._sockets[channel].recv_multipart()
            if self._is_signed(parts):  # a kernel would complain in a cell of ours
                self._was_used()
                link.send(frame(channel, [OUTSIDE, *parts]))
            else:
                log.warning("Another client sent %s what is no signed message", self.file)

    def _is_signed(self, parts: list[bytes]) -> bool:
        _, *signed = parts[parts.index(DELIM) :] if DELIM in parts else parts
        enough = len(signed) > SIGNED_PARTS
        return enough and signed[0] == self._client.session.sign(signed[1 : SIGNED_PARTS + 1])

    def _take(self, channel: bytes, parts: list[bytes]) -> bool:
        """Send them what concerns them; returns whether it concerns nobody else."""
        socket = self._sockets[channel]
        if channel == IOPUB:
            socket.send_multipart(parts)  # done at once: it drops what nobody takes
            return not self._is_ours(parts)
        if parts[0] != OUTSIDE:
            return False
        socket.send_multipart(parts[1:])
        return True

    def _is_ours(self, parts: list[bytes]) -> bool:
        """Whether a message on iopub results from a request of ours, or of nobody."""
        at = parts.index(DELIM) + PARENT if DELIM in parts else len(parts)
        parent = parts[at] if at < len(parts) else b""
        return self._session in parent or b'"session"' not in parent

    async def _beat(self) -> None:
        while True:
            await self._heartbeat.send_multipart(await self._heartbeat.recv_multipart())

    async def close(self) -> None:
        """Close the sockets and remove the files."""
        for link in (self._client.messages, self._client.control):
            link.take = None
        await self._tasks.cancel()
        self._remove()

    def _remove(self) -> None:
        self._context.destroy(linger=0)
        for path in (self.file, *self._paths):
            path.unlink(missing_ok=True)
