"""Where sign-ins are kept: private, whole after a crash, and one for all who change it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rmi_agent.server.auth import Store, oauth_store
from rmi_agent.server.auth.oauth_store import Client, Consent, digest
from rmi_agent.server.commands import tokens as tokens_cli
from rmi_agent.server.errors import BadSettings

from tests.server.auth.oauth import ALICE, URL, Signing, rows

pytestmark = [pytest.mark.anyio, pytest.mark.security]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX file modes")
CONSENT = Consent("alice", "mark", "client", "Probe", "https://python.example/mcp", "")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "sign-ins.sqlite"


@dataclass
class Told:
    code: int
    out: str
    error: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """The command, in this process: starting it takes a second each time."""

    def run(*arguments: str) -> Told:
        code: Any = 0
        try:
            tokens_cli.app(arguments)
        except SystemExit as left:
            code = left.code or 0
        return Told(code, *capsys.readouterr())

    return run


# -- the file


@POSIX
def test_the_file_and_its_folder_are_their_owners_alone(path: Path) -> None:
    old = os.umask(0)
    try:
        store = Store(path)
        store.sign_in(CONSENT, "code")
        with writing(path) as database:
            database.execute("DELETE FROM clients")
            database.execute("UPDATE sign_ins SET used = 1")
            modes = {kept.name: stat.S_IMODE(kept.stat().st_mode) for kept in path.parent.iterdir()}
    finally:
        os.umask(old)
    assert modes == {path.name: 0o600, f"{path.name}-journal": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [kept.name for kept in path.parent.iterdir()] == [path.name]


@POSIX
def test_a_file_that_others_may_change_is_refused(path: Path) -> None:
    Store(path).sign_in(CONSENT, "code")
    path.chmod(0o660)
    with pytest.raises(BadSettings, match="accessible to other users"):
        Store(path)


@pytest.mark.parametrize(
    "bad", [b"{" * 200, b"SQLite format 3\0" + b"x" * 4080, "version", "table"]
)
def test_a_damaged_file_is_reported_and_kept(path: Path, bad: bytes | str) -> None:
    store = Store(path)
    store.sign_in(CONSENT, "code")
    if isinstance(bad, bytes):
        path.write_bytes(bad)
    else:
        with contextlib.closing(sqlite3.connect(path)) as database:
            change = {"version": "PRAGMA user_version = 2", "table": "DROP TABLE sign_ins"}[bad]
            database.execute(change)
    before = path.read_bytes()
    for use in (
        lambda: Store(path).sign_ins(),
        lambda: store.find("code", "code"),
        lambda: store.sign_in(CONSENT, "another"),
    ):
        with pytest.raises(
            BadSettings, match=r"^RMI_AGENT_AUTH: .*sign-ins\.sqlite is .* Move it away: "
        ):
            use()
    assert path.read_bytes() == before


async def test_a_damaged_file_keeps_tokens_of_other_kinds_and_is_reported_once(
    signing: Signing, caplog: pytest.LogCaptureFixture
) -> None:
    _, minted = await signing.signed_in(ALICE)
    kept = oauth_store.store_file().read_bytes()
    oauth_store.store_file().write_bytes(b"{" * 5000)
    for _ in range(3):
        assert await signing.lets_in(ALICE)
        # Not a 401, after which the client would throw its tokens away.
        with pytest.raises(RuntimeError, match="is damaged"):
            await signing.lets_in(minted["access_token"])
    said = [r for r in caplog.records if "is damaged" in r.getMessage()]
    assert len(said) == 1
    oauth_store.store_file().write_bytes(kept)
    assert await signing.lets_in(minted["access_token"])


def test_a_change_that_fails_changes_nothing(path: Path) -> None:
    store = Store(path)
    store.sign_in(CONSENT, "code")
    with writing(path) as database:
        database.execute(
            "CREATE TRIGGER full BEFORE DELETE ON clients BEGIN SELECT RAISE(FAIL, 'x'); END"
        )
        database.execute("INSERT INTO clients VALUES ('old', '', '', 0, 0)")
        database.execute("COMMIT")
    before = path.read_bytes()
    with pytest.raises(BadSettings, match="can't be used: x"):
        store.sign_in(CONSENT, "another")
    assert path.read_bytes() == before
    assert len(store.sign_ins()) == 1


def test_a_file_that_was_removed_signs_everybody_out(path: Path) -> None:
    store = Store(path)
    store.sign_in(CONSENT, "code")
    path.unlink()
    assert store.sign_ins() == []
    store.sign_in(CONSENT, "another")
    assert len(store.sign_ins()) == 1
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


# -- several at once, and crashes


def test_those_who_change_it_at_once_lose_nothing_and_are_not_refused(path: Path) -> None:
    stores = [Store(path) for _ in range(4)]

    def rotated(number: int) -> str:
        minted = stores[number % 4].sign_in(CONSENT, f"code {number}")
        for _ in range(5):
            again = stores[number % 4].rotate(minted.refresh)
            assert again is not None
            minted = again
        return digest(minted.refresh)

    with ThreadPoolExecutor(4) as threads:
        newest = set(threads.map(rotated, range(40)))
    for store in stores:
        assert {one.refresh for one in store.sign_ins()} == newest
    assert len(newest) == 40


CHILD = """
import sys
from pathlib import Path
from rmi_agent.server.quick_imports import import_jsonschema
import_jsonschema()
from rmi_agent.server.auth.oauth_store import Store
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
"""
EACH = CHILD + "for line in sys.stdin: print(store.rotate(line.strip()) is not None, flush=True)"
ENDLESS = (
    CHILD
    + "token = sys.argv[2]\nwhile True: token = store.rotate(token).refresh; print(token, flush=True)"
)


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_of_two_processes_with_one_refresh_token_one_gets_tokens_and_then_nobody(
    path: Path,
) -> None:
    store = Store(path)
    children = [child(EACH, path) for _ in range(2)]
    for n in range(20):
        token = store.sign_in(CONSENT, f"code {n}").refresh
        for one in children:
            assert one.stdin is not None
            one.stdin.write(f"{token}\n")
            one.stdin.flush()
        got = sorted(one.stdout.readline() for one in children if one.stdout)
        assert got == ["False\n", "True\n"]
        assert store.find("refresh", token) is None  # somebody else has it: the sign-in has ended
    for one in children:
        one.communicate(timeout=30)


@POSIX
@pytest.mark.parametrize("after", [0.0, 0.003, 0.01, 0.03, 0.1])
def test_a_process_that_is_killed_while_it_rotates_leaves_one_good_token(
    path: Path, after: float
) -> None:
    store = Store(path)
    process = child(ENDLESS, path, store.sign_in(CONSENT, "code").refresh)
    assert process.stdout is not None
    tokens = [process.stdout.readline().strip()]
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    tokens += process.communicate(timeout=30)[0].split()
    one = store.find("refresh", tokens[-1])
    assert one is not None and len(store.sign_ins()) == 1
    # The last that was handed out is good, unless the next was written and not handed out.
    good = one.refresh == digest(tokens[-1])
    assert (store.rotate(tokens[-1]) is not None) == good
    assert good or store.sign_ins() == []
    assert all(one.refresh != digest(token) for token in tokens[:-1])


def test_who_is_killed_in_a_change_has_changed_nothing(path: Path) -> None:
    store = Store(path)
    minted = store.sign_in(CONSENT, "code")
    code = (
        CHILD + "with store._changed() as database:\n"
        " database.execute('DELETE FROM sign_ins')\n"
        " print('deleted', flush=True)\n"
        " sys.stdin.readline()"
    )
    process = child(code, path)
    assert process.stdout is not None and process.stdout.readline() == "deleted\n"
    assert store.find("access", minted.access) is not None  # and who reads does not wait for it
    process.kill()
    process.communicate(timeout=30)
    assert store.rotate(minted.refresh) is not None


def test_a_lock_that_others_keep_is_not_waited_for_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oauth_store, "LOCK_SECONDS", 0.2)
    store = Store(path)
    store.sign_in(CONSENT, "code")
    with writing(path), pytest.raises(BadSettings, match="is locked by another process"):
        store.sign_in(CONSENT, "another")
    store.sign_in(CONSENT, "another")
    assert len(store.sign_ins()) == 2


async def test_nobody_waits_for_who_signs_in_while_the_file_is_locked(
    signing: Signing, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, minted = await signing.signed_in(ALICE)
    began = time.time()
    monkeypatch.setattr(time, "time", lambda: began + oauth_store.USED_EVERY + 1)  # to be noted
    with writing(oauth_store.store_file()):
        another = asyncio.create_task(signing.signed_in(ALICE))
        for _ in range(20):
            assert await signing.lets_in(minted["access_token"])
            await asyncio.sleep(0.01)
        assert not another.done()
    async with asyncio.timeout(20):
        _, minted = await another
        assert await signing.lets_in(minted["access_token"])
        while not any(one["used"] > began for one in signing.sign_ins().values()):
            await asyncio.sleep(0.02)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as another process has it that is about to write to it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield database


# -- bounds


def test_what_expired_is_forgotten_and_what_is_too_much_as_well(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oauth_store, "SIGN_INS", 3)
    store, begun = Store(path), time.time()
    for n in range(5):
        monkeypatch.setattr(time, "time", lambda n=n: begun + n)
        store.sign_in(CONSENT, f"code {n}")
    assert {one.code for one in store.sign_ins()} == {digest(f"code {n}") for n in (2, 3, 4)}
    monkeypatch.setattr(time, "time", lambda: begun + oauth_store.SIGN_IN_SECONDS + 10)
    assert store.sign_ins() == []
    assert len(rows(path, "sign_ins")) == 3
    store.end()
    assert rows(path, "sign_ins") == {}


def test_a_client_that_was_used_outlives_those_that_were_not(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, begun = Store(path), int(time.time())
    for name in ("client", "never used"):
        store.register(Client(name, name, "https://client.example", begun))
    store.sign_in(CONSENT, "code")
    store.end(*store.sign_ins())
    monkeypatch.setattr(time, "time", lambda: begun + oauth_store.UNUSED_SECONDS + 10)
    store.end()
    assert list(rows(path, "clients")) == ["client"]


def test_use_is_noted_to_the_minute(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, begun = Store(path), time.time()
    store.sign_in(CONSENT, "code")
    [one] = store.sign_ins()
    before = path.stat().st_mtime_ns
    store.note_use(one)
    assert path.stat().st_mtime_ns == before
    monkeypatch.setattr(time, "time", lambda: begun + oauth_store.USED_EVERY + 1)
    store.note_use(one)
    assert store.sign_ins()[0].used > one.used


# -- the command


async def test_a_running_server_notices_who_was_signed_out(
    signing: Signing, command: Callable[..., Told]
) -> None:
    _, first = await signing.signed_in(ALICE, client_name="Claude")
    _, second = await signing.signed_in(ALICE, client_name="ChatGPT")
    listed = command("list").out
    for name in ("Claude", "ChatGPT", f"{URL}/mcp"):
        assert name in listed
    for minted in (first, second):
        assert minted["access_token"] not in listed
        assert minted["refresh_token"] not in listed
    assert command("revoke", "Claude").code == 0
    assert not await signing.lets_in(first["access_token"])
    assert await signing.lets_in(second["access_token"])
    [ident] = signing.sign_ins()
    assert command("revoke", ident).code == 0
    assert not await signing.lets_in(second["access_token"])
    assert command("list").out == "Nobody is signed in.\n"


@pytest.mark.parametrize("arguments", [["alice"], ["--all"]])
async def test_a_user_or_everybody_is_signed_out_at_once(
    signing: Signing, command: Callable[..., Told], arguments: list[str]
) -> None:
    made = [(await signing.signed_in(ALICE))[1]["access_token"] for _ in range(2)]
    told = command("revoke", *arguments)
    assert told.out.count("alice is signed out of Probe") == 2
    assert [await signing.lets_in(token) for token in made] == [False, False]


@pytest.mark.parametrize("arguments", [["nobody"], [], ["alice", "--all"]])
async def test_a_revocation_that_can_mean_nobody_says_so(
    signing: Signing, command: Callable[..., Told], arguments: list[str]
) -> None:
    _, minted = await signing.signed_in(ALICE)
    told = command("revoke", *arguments)
    assert told.code == 2
    assert told.error.count("\n") == 1
    assert await signing.lets_in(minted["access_token"])
