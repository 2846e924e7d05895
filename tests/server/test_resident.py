"""The resident server's record, its proof, and the commands that start and end it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from rmi_agent.server import attach, load, logs, resident
from rmi_agent.server.auth import local_token
from rmi_agent.server.kept import VERSION, token_file
from rmi_agent.server.proof import Facts, Identity, Stranger, bearer_for, facts_of
from rmi_agent.server.resident import Record, Running, found, lease, publish, record_file
from rmi_agent.server.resident_cli import examined, in_background
from rmi_agent.server.settings import BadSettings
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.processes import still_running
from tests.server.residents import user

pytestmark = pytest.mark.anyio
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX processes and modes")
TOKEN = "a-token-that-the-servers-of-one-user-share"
URL = "http://127.0.0.1:8123"


def of_this_process(**other: Any) -> Record:
    own = Record(os.getpid(), resident.born(os.getpid()) or 0.0, VERSION, URL, None)
    return replace(own, **other)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return token_file().parent


# -- the record


def test_a_server_is_found_as_long_as_it_holds_the_lock(state: Path) -> None:
    with lease():
        publish(of_this_process())
        assert found() == of_this_process()
        with pytest.raises(Running, match=str(os.getpid())), lease():
            pass
    assert found() is None
    assert not record_file().exists()


def test_a_record_that_a_crash_has_left_is_not_trusted_and_goes_with_the_next_start(
    state: Path,
) -> None:
    state.mkdir(parents=True, mode=0o700)
    publish(of_this_process())  # a process that lives, but nobody holds the lock
    assert found() is None
    with lease():
        assert not record_file().exists()


@pytest.mark.parametrize(
    "other",
    [{"born": 1.0}, {"pid": 2**22 + 1}, {"pid": 1}],
    ids=["another program has the pid", "no process", "another process"],
)
def test_a_record_of_another_process_is_not_trusted(state: Path, other: dict[str, Any]) -> None:
    with lease():
        publish(of_this_process(**other))
        assert found() is None


@pytest.mark.parametrize("text", ["", "{", "null", '{"pid": 1}', "\x00" * 100])
def test_a_record_that_is_broken_is_none(state: Path, text: str) -> None:
    with lease():
        publish(of_this_process())
        record_file().write_text(text)
        assert found() is None


@POSIX
def test_what_a_server_keeps_is_its_users_alone_and_others_records_are_refused(
    state: Path,
) -> None:
    with lease():
        publish(of_this_process())
        assert stat.S_IMODE(state.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()} == {0o600}
        record_file().chmod(0o644)
        with pytest.raises(BadSettings, match=r"is open to other users\. Delete "):
            found()


def test_a_server_that_neither_begins_nor_ends_is_not_waited_for_without_end(state: Path) -> None:
    with lease(), pytest.raises(BadSettings, match="starting or ending for 0.1 s"), lease(0.1):
        pass


# -- who is who


def facts() -> Facts:
    return Facts(
        version=VERSION,
        pid=1,
        started=0.0,
        prefix=sys.prefix,
        projects="/p",
        notebooks="/n",
        settings={},
        busy=0,
        idle=0,
    )


class Answering:
    """A server's two answers, and all that it was sent."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.sent: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        self.sent.append(f"{scope['path']}?{scope['query_string'].decode()} {headers}")
        if scope["path"] == "/resident/proof":
            await self.identity.prove(scope, receive, send)
        elif headers.get(b"authorization") == f"Bearer {self.identity.bearer}".encode():
            await JSONResponse(facts().model_dump())(scope, receive, send)
        else:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})


def client_of(app: ASGIApp) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app))


async def test_a_server_and_a_client_of_one_user_agree_and_the_token_is_never_sent() -> None:
    server = Answering(Identity(TOKEN))
    async with client_of(server) as client:
        bearer = await bearer_for(client, URL, TOKEN)
        assert await facts_of(client, URL, bearer) == facts()
        with pytest.raises(Stranger, match="it asks for another token"):
            await facts_of(client, URL, "another")
    assert bearer == server.identity.bearer != Identity(TOKEN).bearer
    assert not [one for one in server.sent if TOKEN in one]


async def test_a_server_that_does_not_know_the_token_is_a_stranger() -> None:
    async with client_of(Answering(Identity("another-token-of-another-user"))) as client:
        with pytest.raises(Stranger, match="does not know the token"):
            await bearer_for(client, URL, TOKEN)


async def test_a_proof_that_was_fetched_at_another_port_is_of_no_use() -> None:
    """Who listens where a server has been may ask one that is elsewhere."""
    true = Answering(Identity(TOKEN))

    async def relayed(scope: Scope, receive: Receive, send: Send) -> None:
        await true({**scope, "server": ("127.0.0.1", 8124)}, receive, send)

    async with client_of(relayed) as client:
        with pytest.raises(Stranger, match="does not know the token"):
            await bearer_for(client, URL, TOKEN)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b"", "it answers 404"),
        (302, b"", "it answers 302"),
        (200, b"<html>", "no server of this version"),
        (200, b'{"start": "", "proof": ""}', "does not know the token"),
        (200, b'{"start": "", "proof": "\xc3\xa9"}', "does not know the token"),
        (200, b"x" * 200_000, "has no end"),
    ],
)
async def test_what_answers_otherwise_is_a_stranger(status: int, body: bytes, said: str) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"location", b"http://127.0.0.1:9/")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async with client_of(answer) as client:
        with pytest.raises(Stranger, match=said):
            await bearer_for(client, URL, TOKEN)


@pytest.mark.parametrize("nonce", ["", "0" * 63, "g" * 64, "0" * 1000, "%00"])
async def test_a_server_proves_itself_by_whole_numbers_only(nonce: str) -> None:
    async with client_of(Answering(Identity(TOKEN))) as client:
        answer = await client.get(f"{URL}/resident/proof?nonce={nonce}")
    assert answer.status_code == 400
    assert "proof" not in answer.json()


# -- the commands


@POSIX
def test_a_log_never_gets_large_and_has_what_is_written_to_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr: list[int] = []
    monkeypatch.setattr(os, "dup2", lambda _, new: stderr.append(new))
    monkeypatch.setattr(logs, "LOG_BYTES", 1000)
    file = logs.Bounded(tmp_path / "log")
    for number in range(100):
        file.emit(logging.LogRecord("any", logging.INFO, "", 1, f"line {number:090}", (), None))
    file.close()
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert len(sizes) == 2 and max(sizes) <= 1000
    assert (tmp_path / "log").read_text("utf-8").endswith("99\n")
    assert set(stderr) == {2} and len(stderr) > 5  # each new file in turn


@POSIX
@pytest.mark.slow
def test_two_starts_at_once_give_one_server_that_outlives_its_terminal_and_stops_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with user(tmp_path) as someone:
        monkeypatch.setenv("XDG_STATE_HOME", someone.env["XDG_STATE_HOME"])
        assert examined() == (
            ["No resident server runs. rmi-agent-mcp-server start starts one."],
            3,
        )
        starts = [someone.begin("start") for _ in range(2)]
        told = [start.communicate(timeout=100) for start in starts]
        assert [start.returncode for start in starts] == [0, 0], told
        record, server = someone.record, someone.server
        assert [f"process {record['pid']}, {record['url']}" in out for out, _ in told] == [True] * 2
        assert len({out.partition(":")[0] for out, _ in told}) == 2  # one runs, one runs already
        # Of no session, terminal or parent that could take it along.
        assert os.getsid(server.pid) == server.pid != os.getsid(0)
        assert server.terminal() is None
        assert server not in psutil.Process().children(recursive=True)

        status = someone.run("status")
        assert status.returncode == 0
        for words in (
            f"process {record['pid']}, {record['url']}, version {VERSION}.",
            f"Log: {someone.state / 'resident.log'}",
            "sessions: 0 busy, 0 idle",
            f"Python files: {tmp_path / 'python_projects'}",
            f"Notebooks: {tmp_path / 'notebooks'}",
        ):
            assert words in status.stdout

        folders = {"python_projects_dir": tmp_path / "python_projects"}
        assert "runs already" in in_background(load(**folders), "info")
        with pytest.raises(BadSettings, match="^start: The resident server was started otherwise"):
            in_background(load(**folders, notebooks_dir=tmp_path), "info")

        family = [server, *server.children(recursive=True)]
        stopped = someone.run("stop")
        assert (stopped.returncode, stopped.stderr) == (0, "")
        assert f"(process {record['pid']}) has ended" in stopped.stdout
        assert still_running(family, 0) == []
        assert someone.run("status").returncode == 3
        log = (someone.state / "resident.log").read_text("utf-8")
        assert "The resident server has ended" in log
        assert (someone.state / "token").read_text("utf-8").strip() not in log
        left = {path.name for path in someone.state.iterdir()}
        assert left == {"resident.lock", "resident.log", "token"}


@POSIX
@pytest.mark.slow
def test_a_server_that_service_managers_hold_is_unclear_when_stuck_and_ends_in_order_by_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "SOON", 0.5)
    with user(tmp_path) as someone:
        monkeypatch.setenv("XDG_STATE_HOME", someone.env["XDG_STATE_HOME"])
        held = someone.begin("start", "--foreground")
        wait_for(held, "Resident server")
        someone.server.suspend()
        lines, code = examined()
        assert code == 4
        assert "Log: where its service manager keeps it" in lines
        assert "does not answer" in lines[-1]
        someone.server.resume()
        held.send_signal(signal.SIGTERM)
        held.communicate(timeout=60)
        assert held.returncode == 0  # or they would start it again


@POSIX
@pytest.mark.slow
def test_a_start_that_fails_says_why_in_one_line(tmp_path: Path) -> None:
    with user(tmp_path) as someone, socket.create_server(("127.0.0.1", 0)) as taken:
        failed = someone.run("start", "--port", str(taken.getsockname()[1]))
        assert failed.returncode == 2
        assert failed.stderr.startswith(
            "rmi-agent-mcp-server: RMI_AGENT_PORT: can't listen on 127.0.0.1:"
        )
        assert len(failed.stderr.splitlines()) == 1


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    """Read what a process says until it says some words."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if words in line:
            return
    raise AssertionError("".join(said))


@contextmanager
def impostor() -> Iterator[tuple[str, list[bytes]]]:
    """Who listens where a server has been, answers as if they were one, and keeps all they get."""
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            while True:
                try:
                    peer, _ = listening.accept()
                except OSError:
                    return
                with peer:
                    got.append(peer.recv(65536))
                    body = b'{"start": "00", "proof": "00"}'
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                    peer.sendall(head + body)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", got
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


@POSIX
def test_who_listens_where_a_server_was_gets_no_token(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = local_token().token.get_secret_value()
    with lease(), impostor() as (url, got):
        publish(of_this_process(url=url))
        lines, code = examined()
    assert code == 4
    assert "is not the resident server: it does not know the token" in lines[-1]
    assert len(got) == 1
    assert b"authorization" not in got[0].lower()
    assert token.encode() not in got[0]
