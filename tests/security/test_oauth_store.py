"""Where sign-ins are kept: private, whole after a crash, and one for all who change it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rmi_agent.server import oauth_store, tokens_cli
from rmi_agent.server.oauth_store import Client, Consent, Store, find
from rmi_agent.server.settings import BadSettings

from tests.security.oauth import ALICE, Signing

pytestmark = [pytest.mark.anyio, pytest.mark.security]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX file modes")
CONSENT = Consent("alice", "mark", "client", "Probe", "https://python.example/mcp", ())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "sign-ins.json"


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


@POSIX
def test_the_file_and_its_folder_are_their_owners_alone(path: Path) -> None:
    old = os.umask(0)
    try:
        Store(path).sign_in(CONSENT, "code")
    finally:
        os.umask(old)
    for kept in path.parent.iterdir():
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {kept.name for kept in path.parent.iterdir()} == {"sign-ins.json", "sign-ins.lock"}


@POSIX
def test_a_file_that_others_may_change_is_refused(path: Path) -> None:
    Store(path).sign_in(CONSENT, "code")
    path.chmod(0o660)
    with pytest.raises(BadSettings, match="open to other users"):
        Store(path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"version": 2}', '{"clients": {"x": {}}}', "\udcff", '{"version": 1'],
)
def test_a_spoilt_file_is_told_of_and_kept(path: Path, text: str) -> None:
    store = Store(path)
    minted = store.sign_in(CONSENT, "code")
    spoilt = text.encode("utf-8", "surrogateescape")
    path.write_bytes(spoilt)
    with pytest.raises(BadSettings, match=r"sign-ins\.json"):
        Store(path)
    # A server that runs goes on with what it had, and writes nothing over it.
    assert find(store.state, access=oauth_store.digest(minted.access)) is not None
    with pytest.raises(BadSettings):
        store.sign_in(CONSENT, "another")
    assert path.read_bytes() == spoilt


def test_a_spoilt_file_is_told_of_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(path)
    store.sign_in(CONSENT, "code")
    path.write_text("{")
    for _ in range(5):
        assert len(store.state.sign_ins) == 1
    assert len(caplog.records) == 1


def test_a_change_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(path)
    store.sign_in(CONSENT, "code")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BadSettings, match="No space left"):
        store.sign_in(CONSENT, "another")
    assert path.read_bytes() == before
    assert len(store.state.sign_ins) == len(Store(path).state.sign_ins) == 1
    assert {kept.name for kept in path.parent.iterdir()} == {"sign-ins.json", "sign-ins.lock"}


def test_two_who_change_it_at_once_lose_nothing(path: Path) -> None:
    stores = [Store(path) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(stores[n % 4].sign_in, CONSENT, f"code {n}") for n in range(40)]
        for one in done:
            one.result()
    assert len(Store(path).state.sign_ins) == 40
    assert all(len(store.state.sign_ins) == 40 for store in stores)


def test_who_reads_while_it_changes_is_left_with_what_the_file_has(path: Path) -> None:
    store, over = Store(path), threading.Event()

    def reads() -> None:
        while not over.is_set():
            assert store.state.version == 1

    with ThreadPoolExecutor(3) as threads:
        reading = [threads.submit(reads) for _ in range(2)]
        for n in range(60):
            store.sign_in(CONSENT, f"code {n}")
            assert len(store.state.sign_ins) == n + 1
        over.set()
        for one in reading:
            one.result()


@POSIX
def test_a_lock_that_others_keep_is_not_waited_for_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oauth_store, "LOCK_SECONDS", 0.2)
    store = Store(path)
    store.sign_in(CONSENT, "code")
    with held(path), pytest.raises(BadSettings, match="another process keeps .* locked"):
        store.sign_in(CONSENT, "another")
    store.sign_in(CONSENT, "another")
    assert len(store.state.sign_ins) == 2


@POSIX
async def test_nobody_waits_for_who_signs_in_while_the_file_is_locked(
    signing: Signing, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, minted = await signing.signed_in(ALICE)
    began = time.time()
    monkeypatch.setattr(time, "time", lambda: began + oauth_store.USED_EVERY + 1)  # to be noted
    with held(oauth_store.store_file()):
        another = asyncio.create_task(signing.signed_in(ALICE))
        for _ in range(20):
            assert await signing.lets_in(minted["access_token"])
            await asyncio.sleep(0.01)
        assert not another.done()
    async with asyncio.timeout(20):
        _, minted = await another
        assert await signing.lets_in(minted["access_token"])
        while not any(one.used > began for one in Store(oauth_store.store_file()).state.live()):
            await asyncio.sleep(0.02)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """The lock of a store, as another process has it."""
    import fcntl

    with path.with_suffix(".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_file_that_was_removed_signs_everybody_out(path: Path) -> None:
    store = Store(path)
    store.sign_in(CONSENT, "code")
    path.unlink()
    assert store.state.sign_ins == {}


def test_what_expired_is_forgotten_and_what_is_too_much_as_well(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oauth_store, "SIGN_INS", 3)
    store, begun = Store(path), time.time()
    for n in range(5):
        monkeypatch.setattr(time, "time", lambda n=n: begun + n)
        store.sign_in(CONSENT, f"code {n}")
    kept = {one.code for one in store.state.sign_ins.values()}
    assert kept == {oauth_store.digest(f"code {n}") for n in (2, 3, 4)}
    monkeypatch.setattr(time, "time", lambda: begun + oauth_store.SIGN_IN_SECONDS + 10)
    assert store.state.live() == []
    with store.changed():
        pass
    assert store.state.sign_ins == {}


def test_a_client_that_was_used_outlives_those_that_were_not(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, begun = Store(path), int(time.time())
    with store.changed() as state:
        for name in ("client", "never used"):
            state.clients[name] = Client(name, name, ("https://client.example",), begun)
    store.sign_in(CONSENT, "code")
    with store.changed() as state:
        state.sign_ins.clear()
    monkeypatch.setattr(time, "time", lambda: begun + oauth_store.UNUSED_SECONDS + 10)
    with store.changed():
        pass
    assert list(store.state.clients) == ["client"]


def test_use_is_noted_to_the_minute(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, begun = Store(path), time.time()
    store.sign_in(CONSENT, "code")
    [one] = store.state.live()
    before = path.stat().st_mtime_ns
    store.note_use(one)
    assert path.stat().st_mtime_ns == before
    monkeypatch.setattr(time, "time", lambda: begun + oauth_store.USED_EVERY + 1)
    store.note_use(one)
    assert store.state.sign_ins[one.id].used > one.used


async def test_a_running_server_notices_who_was_signed_out(
    signing: Signing, command: Callable[..., Told]
) -> None:
    _, first = await signing.signed_in(ALICE, client_name="Claude")
    _, second = await signing.signed_in(ALICE, client_name="ChatGPT")
    listed = command("list").out
    assert "Claude" in listed
    assert "ChatGPT" in listed
    assert "https://python.example/mcp" in listed
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
