"""What instances of a server agree on by their store, without any kernel."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell
from rmi_agent.kernels import Instances, StoreError
from rmi_agent.kernels.cluster.instances import INSTANCES, Instance
from rmi_agent.kernels.cluster.leases import SESSIONS, Lease, SessionLeases, key, parse
from rmi_agent.kernels.cluster.stores import FolderStore, open_store
from rmi_agent.kernels.notebook import Recorder, recover
from rmi_agent.kernels.notebook.recovery import pid_file

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def two(folder: Path) -> AsyncIterator[tuple[SessionLeases, SessionLeases]]:
    """The leases of two instances with one store."""
    store = str(folder / "store")
    async with Instances(open_store(store), "a:1") as a, Instances(open_store(store), "b:1") as b:
        yield SessionLeases(a), SessionLeases(b)


async def test_of_many_that_take_over_at_once_one_wins(tmp_path: Path) -> None:
    async with two(tmp_path) as (a, b):
        lease = Lease("Session-_1", "ada", home="gone", used=time.time())
        assert await a.write(lease)
        claims = await asyncio.gather(*(one.claim(lease) for one in (a, b) * 10))
        [mine] = [claim for claim in claims if claim is not None]
        assert mine.turn == 1 and mine.home in (a.instances.name, b.instances.name)
        assert await a.find("Session-_1") == mine


async def test_what_an_earlier_holder_writes_is_void(tmp_path: Path) -> None:
    async with two(tmp_path) as (a, b):
        before = Lease("s", "ada", home=a.instances.name)
        await a.write(before)
        after = await b.claim(before)
        assert after is not None
        assert not await a.write(replace(before, cells=7))
        assert await b.find("s") == after


async def test_an_instance_that_ends_or_is_silent_is_dead_for_the_others(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    async with Instances(open_store(store), "a:1") as a:
        async with Instances(open_store(store), "b:1", beat=60, alive=0.2) as b:
            assert set(await a.all()) == {a.name, b.name}
            async with asyncio.timeout(10):
                while b.name in await a.all():
                    await asyncio.sleep(0.02)
            assert not b.is_alive
        assert a.is_alive and set(await a.all()) == {a.name}


async def test_an_instance_that_was_taken_for_dead_looks_after_its_sessions(tmp_path: Path) -> None:
    looked = asyncio.Event()

    async def look() -> None:
        looked.set()

    store = str(tmp_path / "store")
    async with (
        Instances(open_store(store), "a:1", beat=0.05) as a,
        Instances(open_store(store), "b:1") as b,
    ):
        a.on_lapse = look
        await b.store.delete(INSTANCES, a.name)
        await asyncio.wait_for(looked.wait(), 10)


async def test_a_server_that_starts_at_an_address_follows_the_one_before(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    async with (
        Instances(open_store(store), "a:1") as before,
        Instances(open_store(store), "a:1") as after,
    ):
        assert set(await after.all()) == {after.name}
        assert await before.get(before.name) is None


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"id": "s"},
        {"id": 5, "principal": "ada"},
        {"id": "s", "principal": "ada", "notebook": "../../etc/passwd"},
        {"id": "s", "principal": "ada", "turn": "many"},
        {"id": "s", "principal": "ada", "busy": True},
        {"id": "../s", "principal": "ada"},
        {"id": "s", "principal": None},
    ],
)
def test_what_is_not_a_lease_is_not_read(value: dict[str, object]) -> None:
    assert parse(value) is None


def test_a_lease_of_a_later_version_is_read() -> None:
    lease = Lease("s", "ada", cells=3)
    assert parse({**asdict(lease), "colour": "blue"}) == lease


async def test_garbage_in_the_store_is_no_session_and_hides_none(tmp_path: Path) -> None:
    async with two(tmp_path) as (a, _):
        await a.write(Lease("good", "ada"))
        await a.instances.store.put(SESSIONS, key("odd"), {"id": "else", "principal": "ada"})
        folder = tmp_path / "store" / SESSIONS
        (folder / f"{key('bad')}.json").write_bytes(b"\xff{not json")
        (folder / f"{key('list')}.json").write_text(json.dumps([1]))
        assert [lease.id for lease in await a.all() if lease.id != "else"] == ["good"]
        for session_id in ("odd", "bad", "list", "../../x", "x" * 5000, ""):
            assert await a.find(session_id) is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://host/", "neither"),
        ("/proc/1/nowhere", "can't be used"),
        ("redis://:hush@127.0.0.1:port/0", "URL"),
    ],
)
async def test_a_store_that_is_none_is_told_in_a_line(url: str, words: str) -> None:
    with pytest.raises(StoreError, match=words) as told:
        open_store(url)
    assert "hush" not in str(told.value)


async def test_a_redis_that_is_silent_is_told_without_its_password() -> None:
    pytest.importorskip("redis")
    with pytest.raises(StoreError, match=r"redis://127\.0\.0\.1:1 can't be used") as told:
        async with Instances(open_store("redis://:hush@127.0.0.1:1/0"), "a:1"):
            pass
    assert "hush" not in str(told.value)


async def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    first, second = FolderStore(tmp_path), FolderStore(tmp_path)
    inside = 0
    most = 0

    async def enter(store: FolderStore) -> None:
        nonlocal inside, most
        async with store.lock("k"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(enter(store) for store in (first, second) * 20))
    assert most == 1


def test_a_notebook_goes_on_where_a_dead_instance_has_left_it(tmp_path: Path) -> None:
    dead = Recorder(tmp_path, {"rmi_agent": {"session": "abcdef"}}, "dead")
    first, second = new_code_cell("1"), new_code_cell("2")
    dead.start(first, "first")
    first.metadata["rmi_agent"] = {"cell": 1, "status": "ok"}
    dead.finish(first, "first")
    dead.start(second, "second")
    assert dead.path is not None
    dead.path.write_bytes(dead.path.read_bytes()[:-30])  # cut off while it was written

    recorder, cells = Recorder.going_on(dead.path, "living")
    assert [cell.source for cell in cells] == ["1", "2"]
    recorder.start(cells[-1], "second")
    cells[-1].metadata["rmi_agent"] = {"cell": 2, "status": "interrupted"}
    recorder.finish(cells[-1], "second")
    recorder.close()
    assert recorder.path == dead.path and recorder.problem is None
    content = json.loads(dead.path.read_text("utf-8"))
    assert [cell["metadata"]["rmi_agent"]["status"] for cell in content["cells"]] == [
        "ok",
        "interrupted",
    ]
    assert content["metadata"]["rmi_agent"]["session"] == "abcdef"


def test_notebooks_of_living_instances_and_of_sessions_to_come_back_are_left_alone(
    tmp_path: Path,
) -> None:
    made = {}
    for name in ("living", "waiting", "dead"):
        recorder = Recorder(tmp_path, {}, name)
        recorder.start(new_code_cell(name), name)
        assert recorder.path is not None
        made[name] = recorder.path
        file = pid_file(recorder.path)
        owner = {**json.loads(file.read_text()), "pid": 2**22 + 1}  # of another machine: not here
        file.write_text(json.dumps(owner))
    assert recover(tmp_path, {"living"}, {made["waiting"].name}) == [made["dead"]]


@pytest.mark.slow
async def test_a_write_that_is_cancelled_leaves_nothing_half_written(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    for number in range(200):
        writing = asyncio.create_task(
            store.put("things", "one", {"number": number, "x": "x" * 5000})
        )
        for _ in range(number % 40):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait({writing})
    assert [path.name for path in (tmp_path / "things").iterdir() if path.suffix == ".tmp"] == []
    assert await store.get("things", "one") is not None


async def test_a_sign_of_life_that_fails_is_not_the_last(tmp_path: Path) -> None:
    async with Instances(FolderStore(tmp_path), beat=0.02) as instances:
        again = asyncio.Event()

        get = instances.get

        async def failing(name: str) -> Instance | None:
            if again.is_set():
                return await get(name)
            again.set()
            raise RuntimeError("broken")

        instances.get = failing  # type: ignore[method-assign]
        await again.wait()
        await instances.store.delete(INSTANCES, instances.name)
        async with asyncio.timeout(10):
            while not await instances.store.get(INSTANCES, instances.name):
                await asyncio.sleep(0.01)
