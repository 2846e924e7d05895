"""Jupyter Servers on loopback, and a proxy before one that can cut what goes through it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal

import httpx2
import psutil
from rmi_agent.kernels import JupyterServer

from tests.conftest import kernel_env
from tests.processes import still_running

BASE = "/user/ada"  # as a JupyterHub has it
SOON = 120.0  # seconds; on a machine with nothing else to do it is three


class Jupyter:
    """One `jupyter server` process with folders of its own."""

    def __init__(self, folder: Path, *options: str, token: str = "sesame") -> None:
        self.folder, self.options, self.token = folder, options, token
        self.port = 0
        self.process: psutil.Popen | None = None
        (folder / "root").mkdir(parents=True)

    @property
    def server(self) -> JupyterServer:
        return JupyterServer(f"http://127.0.0.1:{self.port}{BASE}", self.token)

    def start(self) -> None:
        """Start it, on the port that it had if it was started before."""
        own = {f"JUPYTER_{name}_DIR": str(self.folder / name) for name in ("CONFIG", "DATA")}
        own |= {"JUPYTER_RUNTIME_DIR": str(self.folder / "r"), "JUPYTER_TOKEN": self.token}
        own |= {"IPYTHONDIR": str(self.folder / "ipython")}
        command = [sys.executable, "-m", "jupyter_server", "--allow-root", "--no-browser"]
        command += [f"--ServerApp.base_url={BASE}", f"--ServerApp.root_dir={self.folder}/root"]
        command += [f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0"]
        command += ["--ServerApp.terminals_enabled=False", *self.options]
        self.process = psutil.Popen(
            command, env={**kernel_env(), **own}, stderr=subprocess.PIPE, text=True
        )
        said: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=drain, args=(self.process.stderr, said.put), daemon=True).start()
        lines = []
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/", "".join(lines[-1:]))):
            lines.append(said.get(timeout=SOON))
            assert lines[-1], "".join(lines)  # it has ended
        self.port = int(found[1])

    def kernels(self) -> list[dict[str, str]]:
        """What the server says of its kernels."""
        headers = {"Authorization": f"token {self.token}"}
        found = httpx2.get(f"{self.server.url}/api/kernels", headers=headers, timeout=SOON).json()
        return list(found)

    def delete(self, kernel_id: str) -> None:
        """End a kernel, as a person would on the server's own pages."""
        headers = {"Authorization": f"token {self.token}"}
        httpx2.delete(f"{self.server.url}/api/kernels/{kernel_id}", headers=headers, timeout=SOON)

    def kill(self) -> None:
        """End it as a crash does; its kernels notice and end."""
        assert self.process is not None
        family = [self.process, *self.process.children(recursive=True)]
        self.process.kill()
        self._reap(family)

    def stop(self) -> None:
        """End it in order, or not."""
        if self.process is None or not self.process.is_running():
            return
        family = [self.process, *self.process.children(recursive=True)]
        self.process.terminate()
        with contextlib.suppress(psutil.TimeoutExpired):
            self.process.wait(10)
        for each in still_running(family, 0):
            each.kill()
        self._reap(family)

    def _reap(self, family: list[psutil.Process]) -> None:
        assert self.process is not None
        self.process.wait(SOON)
        assert self.process.stderr is not None
        assert not still_running(family, SOON)


def drain(stream: IO[str], take: Callable[[str], None]) -> None:
    """Read to the end, so that the writer never waits; an empty line is the end."""
    with stream:
        for line in stream:
            take(line)
    take("")


class Proxy:
    """Passes connections on to a server, and cuts websockets when told to.

    Attributes:
        server: what a client is to be told of the server.
        cuts: how many websockets were cut.
        lose: whether what the server sends into a websocket goes nowhere now.
        stop_at: cut when this is seen in what the server sends; the piece goes nowhere.
        stop_next: cut when the client sends something; it goes nowhere. (It is masked.)
    """

    def __init__(self, behind: JupyterServer) -> None:
        self.behind = behind
        self.cuts = 0
        self.lose = False
        self.stop_at = b""
        self.stop_next = False
        self._open: set[asyncio.StreamWriter] = set()
        self._swallowed: set[asyncio.StreamWriter] = set()
        self._left: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.server = JupyterServer(f"http://127.0.0.1:{port}{BASE}", self.behind.token)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._left:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Break every websocket that is open, on both of its sides."""
        for writer in list(self._open):
            self.cuts += 1
            writer.transport.abort()

    def swallow(self) -> None:
        """Let all that is sent through the open websockets go nowhere; no side is told, ever."""
        self.cuts += len(self._open)
        self._swallowed |= self._open

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = int(re.findall(r":(\d+)/", self.behind.url)[0])
        try:
            there, back = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        first = await reader.readuntil(b"\r\n\r\n")
        websocket = b"/channels?" in first.split(b"\r\n")[0]
        back.write(first)
        if websocket:
            self._open.add(writer)
        ways = [
            asyncio.create_task(self._pump(reader, back, websocket and writer, False)),
            asyncio.create_task(self._pump(there, writer, websocket and writer, True)),
        ]
        for task in ways:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await asyncio.wait(ways, return_when="FIRST_COMPLETED")
        self._open.discard(writer)
        for task in ways:
            task.cancel()
        if writer in self._swallowed:
            self._left.append(back)
        else:
            back.transport.abort()
        writer.transport.abort()

    def _stops(self, piece: bytes, answers: bool) -> bool:
        if answers and self.stop_at and self.stop_at in piece:
            self.stop_at = b""
            return True
        if not answers and self.stop_next:
            self.stop_next = False
            return True
        return False

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        websocket: asyncio.StreamWriter | Literal[False],
        answers: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65_536):
                if websocket and self._stops(piece, answers):
                    self.cut()
                    return
                if websocket in self._swallowed:
                    continue
                if not (websocket and answers and self.lose):
                    writer.write(piece)
                    await writer.drain()
