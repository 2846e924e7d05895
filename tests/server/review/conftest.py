"""Folders of notebooks, and the pages over them: in this process, or on a port for a browser."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from rmi_agent.server import App, load
from rmi_agent.server.auth import Tokens
from rmi_agent.server.auth import throttle as guesses
from rmi_agent.server.net import bind
from rmi_agent.server.review import ByToken, Index, ReviewAuth
from rmi_agent.server.serving.application import application
from rmi_agent.server.views import Worker

ALICE, BOB, MINE = "alice-alice-alice-alice", "bob-bob-bob-bob-bob-bob", "token-token-token-token"
SECRET = "bobs-secret-number-4711"
NAME = "20261122-161005-demo-abc123"
TOKENS = {"alice": ALICE, "bob": BOB, "token": MINE}
WORKERS: list[Worker] = []  # of the pages of the test that runs


def png(width: int = 3, height: int = 2) -> str:
    """A small picture as notebooks have it; its size stands in its head alone."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + b"\x30\x80\xd0" * 3 for _ in range(2)))
    made = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return base64.b64encode(made).decode()


def data(mime: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"output_type": "display_data", "data": {mime: content} | more, "metadata": {}}


def stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def code(
    source: str, *outputs: dict[str, Any], status: str = "ok", **record: Any
) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "id": f"c{abs(hash(source)) % 10**8}",
        "source": source,
        "outputs": list(outputs),
        "execution_count": 1,
        "metadata": {"rmi_agent": {"status": status, "elapsed": 0.25, **record}},
    }


def write(folder: Path, name: str, *cells: dict[str, Any], principal: str | None = "alice") -> Path:
    """A notebook in a folder."""
    path = folder / f"{name}.ipynb"
    own = {} if principal is None else {"rmi_agent": {"principal": principal}}
    content = {"metadata": own, "nbformat": 4, "nbformat_minor": 5, "cells": list(cells)}
    path.write_text(json.dumps(content), "utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "python_projects").mkdir()
    made = tmp_path / "notebooks"
    made.mkdir()
    return made


@pytest.fixture
def session(folder: Path) -> Path:
    """One of alice's: text, a picture, a table, a failure."""
    return write(
        folder,
        NAME,
        code("print('hello')", stream("hello\n")),
        code("plot()", data("image/png", png(), **{"text/plain": "<Figure size 3x2>"})),
        code("df", data("text/html", "<table><tr><td>7</td></tr></table>")),
        code(
            "1 / 0",
            {
                "output_type": "error",
                "ename": "Z",
                "evalue": "",
                "traceback": ["\x1b[31mZero\x1b[0m"],
            },
            status="error",
            notes=["A note."],
        ),
    )


def served_app(folder: Path, *, signed_in: bool = True, **settings: Any) -> Any:
    """The whole application over a folder, with no kernels behind it."""
    chosen = load(
        python_projects_dir=folder.parent / "python_projects",
        notebooks_dir=folder,
        port=0,
        sandbox="off",
        **settings,
    )
    tokens = Tokens(TOKENS) if signed_in else None
    server = App(chosen, tokens)
    WORKERS.append(server.page_worker)
    return application(server, chosen, tokens, tokens)


@contextlib.asynccontextmanager
async def visiting(
    folder: Path, token: str | None = ALICE, *, whole: bool = False, **more: Any
) -> AsyncIterator[Any]:
    """A visitor of the pages, who has signed in unless there is no token.

    Behind all that stands before them on a server if `whole`, which takes longer to make.
    """
    if whole:
        app = served_app(folder, **more)
    else:
        WORKERS.append(Worker())
        app = ReviewAuth(Index(folder), ByToken(Tokens(TOKENS)), worker=WORKERS[-1])
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(
        transport=transport,
        base_url="http://localhost:8000",
        headers={"Origin": "http://localhost:8000"},
    ) as http:
        if token is not None:
            answer = await http.post("/review/sign-in", data={"token": token})
            assert answer.status_code == 303, answer.text
        yield http


@pytest.fixture(autouse=True)
def no_worker_stays() -> Iterator[None]:
    yield
    while WORKERS:
        WORKERS.pop().close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "FAILURE_DELAY", 0.0)


@contextlib.contextmanager
def on_a_port(
    folder: Path, heard: list[tuple[str, str]] | None = None, **more: Any
) -> Iterator[str]:
    """The same on a port, for browsers; its address. `heard` gets each request it was sent."""
    app = served_app(folder, **more)

    async def listening_app(scope: Any, receive: Any, send: Any) -> None:
        if heard is not None:
            heard.append((scope["method"], scope["path"]))
        await app(scope, receive, send)

    listening = bind(load(port=0, python_projects_dir=folder.parent / "python_projects"))
    server = uvicorn.Server(
        uvicorn.Config(listening_app, log_config=None, lifespan="off", ws="none")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
