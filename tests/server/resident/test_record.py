"""The background server's record and socket, and the commands that start and end it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from rmi_agent.server import load, logs
from rmi_agent.server.commands.resident import in_background, inspect_server
from rmi_agent.server.errors import AlreadyRunning, AttachError, BadSettings
from rmi_agent.server.resident import (
    Record,
    found,
    lease,
    local_socket,
    publish,
    resident_endpoint,
)
from rmi_agent.server.resident import record as resident
from rmi_agent.server.resident.endpoint import Endpoint, check_owner
from rmi_agent.server.resident.record import SOCKET_PATH_LIMIT
from rmi_agent.server.state_dir import VERSION, record_file, token_file

from tests.processes import still_running
from tests.server.resident.residents import user

pytestmark = pytest.mark.anyio
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX processes and modes")
KEY = "the-key-of-this-start-of-a-server"
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
        with pytest.raises(AlreadyRunning, match=str(os.getpid())), lease():
            pass
    assert found() is None
    assert not record_file().exists()


def test_no_call_waits_for_the_lock_of_the_server_that_it_is_for(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits() -> bool:
        raise AssertionError("0.2 s of each call")

    monkeypatch.setattr(resident, "is_held", waits)
    publish(record := of_this_process())
    endpoint = Endpoint(record.url, record.key, record)
    assert endpoint.runs
    publish(replace(record, pid=1))
    assert not endpoint.runs
    assert not replace(endpoint, record=replace(record, born=1.0)).runs


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
        with pytest.raises(BadSettings, match=r"is accessible to other users\. Delete "):
            found()


def test_a_server_that_neither_begins_nor_ends_is_not_waited_for_without_end(state: Path) -> None:
    with lease(), pytest.raises(BadSettings, match="is starting or stopping"), lease(0.1):
        pass


def test_there_is_none_on_windows(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(BadSettings, match="not available on Windows: .* --transport http"):
        resident.check_supported()
    assert not resident.is_held() and found() is None


# -- the socket


def reach(path: str) -> None:
    """Connect to a socket as clients do."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(path)


@POSIX
def test_a_socket_is_its_users_alone_and_goes_with_its_server(state: Path) -> None:
    with lease(), local_socket() as listening:
        path = Path(listening.getsockname())
        assert path.parent == state
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        reach(str(path))
    assert not path.exists()


@POSIX
def test_a_socket_that_a_killed_server_left_is_replaced(state: Path) -> None:
    path = str(state / "resident.sock")
    state.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    with pytest.raises(ConnectionRefusedError):
        reach(path)
    with lease(), local_socket() as listening:
        assert listening.getsockname() == path
        reach(path)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a short path."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        yield Path(folder)


def deep(folder: Path, length: int) -> str:
    """A state folder below one, in which a socket's path has that many bytes."""
    rest = length - len(f"{folder}//rmi-agent/resident.sock")
    return str(folder / ("x" * rest))


@POSIX
@pytest.mark.parametrize("length", [104, 107, 108, 250])
@pytest.mark.parametrize("letter", ["x", "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_where_a_path_is_too_long_for_a_socket_a_private_temporary_folder_has_it(
    length: int, letter: str, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = deep(short, length)
    monkeypatch.setenv("XDG_STATE_HOME", place.replace("xx", letter * (3 - len(letter.encode()))))
    with lease(), local_socket() as listening:
        path = Path(listening.getsockname())
        assert token_file().parent != path.parent
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        check_owner(path)
        reach(str(path))
    assert not path.parent.exists()


@POSIX
def test_a_path_of_the_most_bytes_fits(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", deep(short, SOCKET_PATH_LIMIT))
    with lease(), local_socket() as listening:
        assert len(listening.getsockname()) == SOCKET_PATH_LIMIT
        assert Path(listening.getsockname()).parent == token_file().parent
        reach(listening.getsockname())


@POSIX
def test_a_temporary_folder_that_a_killed_server_left_goes_with_the_next_start(
    state: Path,
) -> None:
    (state / "resident.sock").mkdir(parents=True)  # in the way
    with lease(), local_socket() as listening:
        path = Path(listening.getsockname())
        publish(of_this_process(socket=str(path)))
        left = record_file().read_bytes()
    assert not path.parent.exists()
    path.parent.mkdir()
    path.touch()
    record_file().touch(mode=0o600)
    record_file().write_bytes(left)
    with lease():
        assert not path.parent.exists()
    assert state.exists()


@POSIX
def test_where_no_folder_can_have_a_socket_the_start_says_what_to_set(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = state / ("x" * 150)
    long.mkdir(parents=True)
    monkeypatch.setenv("XDG_STATE_HOME", str(long))
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    wanted = pytest.raises(BadSettings, match="^XDG_STATE_HOME: no Unix socket .* is too long")
    with wanted, lease(), local_socket():
        pass
    assert [path.name for path in long.iterdir()] == ["rmi-agent"]


@contextmanager
def answering(body: bytes) -> Iterator[tuple[Endpoint, list[bytes]]]:
    """What answers at a background server's socket, and what it was sent."""
    got: list[bytes] = []
    with lease(), local_socket() as listening:

        def answer() -> None:
            while True:
                try:
                    peer, _ = listening.accept()
                except OSError:
                    return
                with peer, suppress(OSError):
                    got.append(peer.recv(65536))
                    peer.sendall(body)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            record = of_this_process(socket=listening.getsockname(), key=KEY)
            yield resident_endpoint(record), got
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def response(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} X\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\nConnection: close\r\n\r\n" + body


@POSIX
@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"", "refuses our token. Run: rmi-agent stop, then"),
        (404, b"", "is not a server of version"),
        (302, b"", "is not a server of version"),
        (200, b"<html>", "is not a server of version"),
        (200, b'{"version": "1"}', "is not a server of version"),
        (200, b"x" * 200_000, "is not a server of version"),
    ],
)
async def test_what_answers_otherwise_is_not_attached_to(
    state: Path, status: int, body: bytes, said: str
) -> None:
    refused = pytest.raises(AttachError, match=said)
    with answering(response(status, body)) as (endpoint, got), refused:
        await endpoint.facts()
    assert len(got) == 1


@POSIX
@pytest.mark.parametrize("how", ["missing", "its folder is open"])
async def test_a_socket_that_may_be_somebody_elses_is_sent_nothing(state: Path, how: str) -> None:
    with answering(response(200, b"{}")) as (endpoint, got):
        if how == "missing":
            (state / "resident.sock").unlink()
            said = "resident.sock can't be used: No such file"
        else:
            state.chmod(0o770)
            said = f"Other users may change {state}"
        with pytest.raises(AttachError, match=said):
            await endpoint.facts()
    assert got == []
    assert KEY not in repr(endpoint)


# -- the commands


@POSIX
def test_a_log_never_gets_large_and_has_what_is_written_to_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr: list[int] = []
    monkeypatch.setattr(os, "dup2", lambda _, new: stderr.append(new))
    monkeypatch.setattr(logs, "LOG_BYTES", 1000)
    file = logs.BoundedFile(tmp_path / "log")
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
        assert inspect_server() == (
            ["No background server is running. Start one with: rmi-agent start"],
            3,
        )
        starts = [someone.begin("start") for _ in range(2)]
        told = [start.communicate(timeout=100) for start in starts]
        assert [start.returncode for start in starts] == [0, 0], told
        record, server = someone.record, someone.server
        assert [f"process {record['pid']}, {record['url']}" in out for out, _ in told] == [True] * 2
        assert (
            len({out.partition(":")[0] for out, _ in told}) == 2
        )  # one is running, one was already
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
        assert "is already running" in in_background(load(**folders), "info")
        with pytest.raises(
            BadSettings, match="^start: The background server was started differently"
        ):
            in_background(load(**folders, notebooks_dir=tmp_path), "info")

        family = [server, *server.children(recursive=True)]
        stopped = someone.run("stop")
        assert (stopped.returncode, stopped.stderr) == (0, "")
        assert f"(process {record['pid']}) has stopped" in stopped.stdout
        assert still_running(family, 0) == []
        assert someone.run("status").returncode == 3
        log = (someone.state / "resident.log").read_text("utf-8")
        assert "The background server has ended" in log
        assert (someone.state / "token").read_text("utf-8").strip() not in log
        left = {path.name for path in someone.state.iterdir()}
        assert left == {"resident.lock", "resident.log", "token"}


@POSIX
@pytest.mark.slow
def test_a_server_that_service_managers_hold_is_unclear_when_stuck_and_ends_in_order_by_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with user(tmp_path) as someone:
        monkeypatch.setenv("XDG_STATE_HOME", someone.env["XDG_STATE_HOME"])
        held = someone.begin("start", "--foreground")
        wait_for(held, "Background server")
        someone.server.suspend()
        lines, code = inspect_server()
        assert code == 4
        assert "Log: with its service manager" in lines
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
