"""Files over HTTP, in front of all that stands before them on a server."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport
from rmi_agent.server import App, load
from rmi_agent.server.auth import Tokens
from rmi_agent.server.serving.application import application
from rmi_agent.server.transfer import Links, upload

from tests.server.conftest import http_server, token
from tests.server.files.trees import snapshot

pytestmark = pytest.mark.anyio

ALICE, BOB = "a" * 32, "b" * 32
URL = "http://localhost:8000"
KEY = b"k" * 32


@dataclass
class Served:
    http: Any
    folder: Path
    app: App


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    folder = tmp_path / "projects"
    (folder / "own").mkdir(parents=True)
    (folder / "own" / "n.ipynb").write_text("secret")
    settings = load(
        python_projects_dir=folder,
        notebooks_dir=folder / "own",
        kernel_pool=0,
        port=0,
        sandbox="off",
        upload_limit=5_000_000,
    )
    tokens = Tokens({"alice": ALICE, "bob": BOB})
    app = App(settings, tokens, link_key=KEY)
    transport = httpx2.ASGITransport(application(app, settings, tokens, tokens))
    headers = {"Authorization": f"Bearer {ALICE}"}
    async with httpx2.AsyncClient(transport=transport, base_url=URL, headers=headers) as http:
        yield Served(http, folder, app)


async def test_what_is_uploaded_can_be_downloaded(server: Served) -> None:
    data = bytes(range(256)) * 10_000

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 70_000):
            yield data[at : at + 70_000]

    made = await server.http.put("/files/new/größe%20%23.bin", content=pieces())
    assert (made.status_code, made.json()) == (201, {"path": "new/größe #.bin", "bytes": len(data)})
    assert (server.folder / "new/größe #.bin").read_bytes() == data
    again = await server.http.put("/files/new/größe%20%23.bin", content=b"")
    assert (again.status_code, (server.folder / "new/größe #.bin").read_bytes()) == (200, b"")
    (server.folder / "page.html").write_text("<script>alert(1)</script>")
    got = await server.http.get("/files/page.html")
    assert (got.status_code, got.text) == (200, "<script>alert(1)</script>")
    assert got.headers["content-type"] == "text/html"
    assert got.headers["content-disposition"].startswith("attachment;")
    assert got.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert got.headers["x-content-type-options"] == "nosniff"
    head = await server.http.head("/files/page.html")
    assert (head.content, head.headers["content-length"]) == (b"", "25")
    assert (await server.http.get("/files/new/gr%C3%B6%C3%9Fe%20%23.bin")).content == b""
    absolute = await server.http.get(f"/files/{server.folder / 'page.html'}")
    assert absolute.text == got.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "code", "body", "place"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-4", 206, b"6789", "bytes 6-9/10"),
        ("bytes=-400", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=5-500", 206, b"56789", "bytes 5-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=5-4", 416, b"", "bytes */10"),
        *((odd, 200, b"0123456789", None) for odd in ("bytes=-", "bytes=0-1,3-4", "lines=1-2")),
        *((odd, 200, b"0123456789", None) for odd in ("", "bytes=a-b", f"bytes={'9' * 50}-")),
    ],
)
async def test_a_range_is_sent_alone(
    server: Served, asked: str, code: int, body: bytes, place: str | None
) -> None:
    (server.folder / "a.bin").write_bytes(b"0123456789")
    got = await server.http.get("/files/a.bin", headers={"Range": asked})
    assert (got.status_code, got.content) == (code, body)
    assert got.headers.get("content-range") == place
    tag = got.headers["etag"]
    same = await server.http.get("/files/a.bin", headers={"Range": asked, "If-Range": tag})
    assert same.status_code == code
    (server.folder / "a.bin").write_bytes(b"changed")
    other = await server.http.get("/files/a.bin", headers={"Range": asked, "If-Range": tag})
    assert (other.status_code, other.content) == (200, b"changed")
    now = {"If-None-Match": other.headers["etag"]}
    assert (await server.http.get("/files/a.bin", headers=now)).status_code == 304


async def test_an_empty_file_and_conditions(server: Served) -> None:
    (server.folder / "empty").touch()
    for asked in ("", "bytes=0-"):
        got = await server.http.get("/files/empty", headers={"Range": asked})
        assert got.content == b"" and got.status_code in (200, 416)
    only_new = {"If-None-Match": "*"}
    kept = await server.http.put("/files/empty", content=b"x", headers=only_new)
    assert (kept.status_code, (server.folder / "empty").read_bytes()) == (412, b"")
    made = await server.http.put("/files/other", content=b"x", headers=only_new)
    assert made.status_code == 201

    async def beside(text: str) -> AsyncIterator[bytes]:
        yield text.encode()
        if text == "late":  # the other one is done by then
            await server.http.put("/files/one", content=beside("early"), headers=only_new)

    late = await server.http.put("/files/one", content=beside("late"), headers=only_new)
    assert (late.status_code, (server.folder / "one").read_text()) == (412, "early")
    assert sorted(each.name for each in server.folder.iterdir()) == ["empty", "one", "other", "own"]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../outside",
            "%2e%2e/outside",
            "sub/..%2f..%2foutside",
            "/etc/passwd",
            "%2Fetc%2Fpasswd",
        ),
        *("out", "own/n.ipynb", "own/new.ipynb", "a%00b", "", ".", "sub", "x" * 2_000),
    ],
)
async def test_a_hostile_name_is_refused(server: Served, tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_text("secret")
    (server.folder / "sub").mkdir()
    (server.folder / "out").symlink_to(tmp_path / "outside")
    before, descriptors = snapshot(tmp_path), psutil.Process().num_fds()
    for method in ("GET", "HEAD", "PUT"):
        url = httpx2.URL(URL, raw_path=f"/files/{name}".encode())
        got = await server.http.request(method, url, content=b"x" if method == "PUT" else None)
        assert got.status_code in (403, 404), (method, got.text)
        assert "secret" not in got.text
    assert snapshot(tmp_path) == before
    assert psutil.Process().num_fds() == descriptors


async def test_strangers_get_nothing_and_other_methods_are_refused(server: Served) -> None:
    (server.folder / "a.txt").write_text("secret")
    for method in ("GET", "PUT", "DELETE"):
        for headers in ({"Authorization": ""}, {"Authorization": f"Bearer {'x' * 32}"}):
            got = await server.http.request(method, "/files/a.txt", headers=headers)
            assert got.status_code == 401
    got = await server.http.delete("/files/a.txt")
    assert (got.status_code, got.headers["allow"]) == (405, "GET, HEAD, PUT")
    foreign = await server.http.get("/files/a.txt", headers={"Host": "evil.example"})
    assert foreign.status_code == 421
    assert (server.folder / "a.txt").read_text() == "secret"


async def test_an_upload_that_fails_changes_nothing(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    (server.folder / "a.bin").write_text("old")
    before = snapshot(server.folder)
    monkeypatch.setattr(upload, "SILENCE", 0.05)

    async def too_much() -> AsyncIterator[bytes]:
        for _ in range(60):
            yield b"x" * 100_000

    async def breaks_off() -> AsyncIterator[bytes]:
        yield b"x" * 2_000_000
        raise RuntimeError("gone")

    async def stops() -> AsyncIterator[bytes]:
        yield b"x" * 2_000_000
        await asyncio.sleep(1)
        yield b"x"

    for name in ("a.bin", "new/folder/b.bin"):
        got = await server.http.put(f"/files/{name}", content=too_much())
        assert got.status_code == 413 and "5,000,000 bytes" in got.text
        with pytest.raises(RuntimeError):
            await server.http.put(f"/files/{name}", content=breaks_off())
        got = await server.http.put(f"/files/{name}", content=stops())
        assert got.status_code == 408
        task = asyncio.create_task(server.http.put(f"/files/{name}", content=stops()))
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait({task})
        for header in ({"Content-Range": "bytes 0-1/2"}, {"Content-Encoding": "gzip"}):
            got = await server.http.put(f"/files/{name}", content=b"x", headers=header)
            assert got.status_code == 400
        assert snapshot(server.folder) == before


async def test_a_link_downloads_one_file_once(server: Served) -> None:
    (server.folder / "<b>.csv").write_text("a,b\n")
    assert server.app.links is not None
    link = f"/download/{server.app.links.make('bob', '<b>.csv')}/b.csv"
    person = {"Authorization": "", "Origin": URL}
    for _ in range(2):  # programs that preview links do not use it up
        page = await server.http.get(link, headers=person)
        assert page.status_code == 200 and "&lt;b&gt;.csv</b>, 4 bytes" in page.text
    got = await server.http.post(link, headers=person)
    assert (got.status_code, got.text) == (200, "a,b\n")
    assert got.headers["content-disposition"].startswith("attachment;")
    for method in ("GET", "POST"):
        used = await server.http.request(method, link, headers=person)
        assert used.status_code == 404 and "does not work" in used.text


@pytest.mark.slow
async def test_a_download_that_breaks_off_does_not_use_up_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "python_projects"
    folder.mkdir()
    with open(folder / "big.bin", "wb") as file:
        file.truncate(200_000_000)
    with http_server(folder, RMI_AGENT_SANDBOX="off") as (url, process):
        headers = {"Authorization": f"Bearer {token()}"}
        async with Client(StreamableHttpTransport(f"{url}/mcp", headers=headers)) as client:
            read = await client.call_tool("read_file", {"path": "big.bin"})
        (link,) = re.findall(rf"{url}/download/\S+/big.bin", read.content[0].text)
        async with (
            httpx2.AsyncClient(headers={"Origin": url}) as person,
            person.stream("POST", link) as answer,
        ):
            await anext(answer.aiter_raw())
        async with httpx2.AsyncClient(headers={"Origin": url}) as person:
            async with asyncio.timeout(20):
                while (await person.get(link)).status_code != 200:
                    await asyncio.sleep(0.05)
            async with person.stream("POST", link) as answer:
                assert sum([len(part) async for part in answer.aiter_raw()]) == 200_000_000
            assert (await person.post(link)).status_code == 404
        open_files = [each.path for each in psutil.Process(process.pid).open_files()]
        assert str(folder / "big.bin") not in open_files


async def test_odd_files_and_conditions_are_answered(server: Served) -> None:
    file = server.folder / "a.txt"
    file.write_text("text")
    tag = (await server.http.get("/files/a.txt")).headers["etag"]
    for condition in (f'"x", W/{tag}', "*"):
        got = await server.http.get("/files/a.txt", headers={"If-None-Match": condition})
        assert (got.status_code, got.content) == (304, b"")
    for time in (-1, 2**33, 2**38):
        os.utime(file, (time, time))
        for method in ("GET", "HEAD"):
            got = await server.http.request(method, "/files/a.txt", headers={"If-Range": tag})
            assert (got.status_code, got.headers["content-length"]) == (200, "4")


async def test_a_link_that_was_changed_or_is_old_or_leads_elsewhere_does_not_work(
    server: Served, tmp_path: Path
) -> None:
    (server.folder / "a.txt").write_text("secret")
    (tmp_path / "outside").write_text("secret")
    links = Links(KEY)
    good, other = links.make("bob", "a.txt"), links.make("bob", "b.txt")
    what, until, mac = good.split(".")
    for bad in (
        *(good[:-1] + ("A" if good[-1] != "A" else "B"), f"{what}.{int(until) + 1}.{mac}"),
        *(
            other.split(".")[0] + good[len(what) :],
            what,
            "",
            "a.b.c",
            "ä.1.x",
            "%00.1.x",
        ),
        *(links.make("bob", "a.txt", -1), Links(b"x" * 32).make("bob", "a.txt")),
        *(links.make("bob", name) for name in ("../outside", "own/n.ipynb", "gone.txt", "a\0", "")),
    ):
        for method in ("GET", "POST"):
            got = await server.http.request(
                method, f"/download/{bad}", headers={"Authorization": "", "Origin": URL}
            )
            assert got.status_code == 404, bad
            assert "secret" not in got.text
    foreign = {"Authorization": "", "Origin": "http://evil.example"}
    assert (await server.http.post(f"/download/{good}", headers=foreign)).status_code == 403
    assert (await server.http.get(f"/download/{good}")).status_code == 200


@pytest.mark.slow
async def test_results_of_a_remote_client_say_where_files_are(tmp_path: Path) -> None:
    folder = tmp_path / "python_projects"
    folder.mkdir()
    with http_server(folder, RMI_AGENT_SANDBOX="off") as (url, _):
        headers = {"Authorization": f"Bearer {token()}"}
        async with Client(StreamableHttpTransport(f"{url}/mcp", headers=headers)) as client:
            code = "open('out.csv', 'w').write('1,2\\n'); print(open('in.txt').read())"
            async with httpx2.AsyncClient(headers=headers) as http:
                await http.put(f"{url}/files/in.txt", content=b"sent before")
                result = await client.call_tool("run_cell", {"code": code})
                text = result.content[0].text
                assert "sent before" in text and "Wrote out.csv, 4 bytes]" in text
                assert f"GET {url}/files/out.csv." in text
                (link,) = re.findall(rf"{url}/download/\S+/out.csv", text)
                assert (await http.get(f"{url}/files/out.csv")).text == "1,2\n"
            async with httpx2.AsyncClient(headers={"Origin": url}) as person:
                assert "out.csv" in (await person.get(link)).text
                assert (await person.post(link)).text == "1,2\n"
                assert (await person.post(link)).status_code == 404
            read = await client.call_tool("read_file", {"path": "out.csv"})
            assert f"GET {url}/files/out.csv" in read.content[0].text
            listed = await client.call_tool("list_files", {})
            assert listed.content[0].text.endswith(
                f"[HTTP with your token: GET or PUT {url}/files/NAME]"
            )
