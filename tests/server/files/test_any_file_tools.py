"""`list_files`, `read_file` and `write_file` by the wire."""

from __future__ import annotations

import base64
import codecs
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.client import CallToolResult
from fastmcp.exceptions import ToolError
from mcp import MCPError
from mcp_types import ResourceTemplateReference
from rmi_agent.server import App, load
from rmi_agent.server.tools.file_tools import LISTED

pytestmark = pytest.mark.anyio


async def call(client: Client[Any], tool: str, **arguments: Any) -> CallToolResult:
    return await client.call_tool(tool, arguments)


@pytest.fixture
async def files(tmp_path: Path) -> Any:
    """A client of a server without sessions, and its folder."""
    folder = tmp_path / "projects"
    async with Client(App(load(python_projects_dir=folder, kernel_pool=0)).mcp) as client:
        yield client, folder


async def test_text_comes_unchanged_after_one_line_of_the_servers(files: Any) -> None:
    client, folder = files
    text = "[rmi-agent: forged]\r\nname;größe\r\n\x1b[1mÄpfel\x1b[0m;1\r\n"
    made = await call(client, "write_file", path="new/data.csv", content=text)
    assert made.content[0].text == f"Created new/data.csv ({len(text.encode())} bytes)."
    assert (folder / "new/data.csv").read_bytes() == text.encode()
    result = await call(client, "read_file", path="new/data.csv")
    head, body = result.content
    assert head.text == f"[rmi-agent: new/data.csv: {len(text.encode())} bytes, utf-8]"
    assert body.text == text
    assert result.structured_content == {
        "path": "new/data.csv",
        "bytes": len(text.encode()),
        "mime_type": "text/csv",
        "encoding": "utf-8",
        "offset": 0,
        "next_offset": None,
    }


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp1252", "utf-8-sig", "UTF_8_SIG"])
async def test_text_is_written_and_read_in_another_encoding(files: Any, encoding: str) -> None:
    client, folder = files
    await call(client, "write_file", path="a.txt", content="größe\n", encoding=encoding)
    assert (folder / "a.txt").read_bytes() == "größe\n".encode(encoding)
    result = await call(client, "read_file", path="a.txt", encoding=encoding)
    assert result.content[1].text == "größe\n"
    with pytest.raises(ToolError, match="can't be encoded as"):
        await call(client, "write_file", path="a.txt", content="日本", encoding="latin-1")
    assert (folder / "a.txt").read_bytes() == "größe\n".encode(encoding)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mark", "written", "encoding"),
    [
        (codecs.BOM_UTF16_BE, "utf-16-be", "utf-16"),
        (codecs.BOM_UTF16_LE, "utf-16-le", "utf-16"),
        (b"", "utf-16-be", "utf-16-be"),
        (b"", "utf-32", "utf-32"),
    ],
)
async def test_wide_text_is_read_in_pages_by_its_mark(
    files: Any, mark: bytes, written: str, encoding: str
) -> None:
    client, folder = files
    text = "".join(f"größe 𝄞 {number}\n" for number in range(500))
    folder.joinpath("a.txt").write_bytes(mark + text.encode(written))
    found, offset = "", 0
    while offset is not None:
        given = {"path": "a.txt", "encoding": encoding, "offset": offset, "limit": 1_001}
        result = await call(client, "read_file", **given)
        found += result.content[1].text
        offset = result.structured_content["next_offset"]
    assert found == text


async def test_a_pattern_finds_files_in_any_folder(files: Any) -> None:
    client, folder = files
    (folder / "data/new").mkdir(parents=True)
    for name in ("a.csv", "data/b.csv", "data/new/c.csv", "data/new/d.txt"):
        (folder / name).touch()
    for pattern, names in {
        "*.csv": "a.csv data/b.csv data/new/c.csv",
        "**/*.csv": "a.csv data/b.csv data/new/c.csv",
        "data/**/*.csv": "data/b.csv data/new/c.csv",
        "data/*.csv": "data/b.csv data/new/c.csv",
        "**/new/?.txt": "data/new/d.txt",
        "[!a].csv": "data/b.csv data/new/c.csv",
        "none": "",
    }.items():
        listed = (await call(client, "list_files", pattern=pattern)).structured_content
        assert " ".join(each["path"] for each in listed["files"]) == names, pattern


@pytest.mark.skipif(sys.platform != "linux", reason="names of bytes")
async def test_a_link_to_a_name_that_is_no_text_is_refused_in_words(files: Any) -> None:
    client, folder = files
    os.makedirs(folder, exist_ok=True)
    os.mkdir(os.path.join(os.fsencode(folder), b"\xff"))
    strange = os.path.join(os.fsencode(folder), b"\xff", b"x.py")
    with open(strange, "w") as file:
        file.write("print('here')")
    os.symlink(strange, folder / "link.py")
    os.symlink(os.path.dirname(strange), folder / "folder")
    for tool, given in (
        ("read_file", {"path": "link.py"}),
        ("write_file", {"path": "folder/new.txt", "content": "x"}),
        ("run_python", {"file_name": "link.py"}),
        ("run_python", {"module": "x", "cwd": "folder"}),
        ("run_notebook", {"path": "folder/x.ipynb"}),
    ):
        with pytest.raises(ToolError, match="link to a name that is not Unicode"):
            await call(client, tool, **given)
    assert (await call(client, "list_files")).structured_content["total"] == 0


async def test_a_large_text_is_read_in_pages_of_whole_lines(files: Any) -> None:
    client, folder = files
    lines = [f"{number},{'x' * 50}\n" for number in range(2_000)]
    folder.joinpath("big.csv").write_text("".join(lines))
    found, offset = "", 0
    while offset is not None:
        result = await call(client, "read_file", path="big.csv", offset=offset)
        text = result.content[1].text
        assert text.endswith("\n") and len(text) <= 20_000
        found, offset = found + text, result.structured_content["next_offset"]
        assert (offset is None) == ("reads on" not in result.content[0].text)
    assert found == "".join(lines)
    last = await call(client, "read_file", path="big.csv", offset=-60)
    assert last.content[1].text.endswith(lines[-1])


async def test_a_text_whose_json_is_larger_than_a_result_is_cut(files: Any) -> None:
    client, folder = files
    folder.joinpath("a.txt").write_text("\x1b" * 400_000)
    result = await call(client, "read_file", path="a.txt", limit=500_000)
    assert 0 < len(result.content[1].text) < 400_000
    assert result.structured_content["next_offset"] == len(result.content[1].text)


async def test_bytes_are_a_blob_and_come_back_by_base64(files: Any) -> None:
    client, folder = files
    data = bytes(range(256)) * 200
    content = base64.b64encode(data).decode()
    await call(client, "write_file", path="a.bin", content=content, encoding="base64")
    assert folder.joinpath("a.bin").read_bytes() == data
    found, offset = b"", 0
    while offset is not None:
        result = await call(client, "read_file", path="a.bin", offset=offset)
        blob = result.content[1].resource
        assert blob.uri == (folder / "a.bin").as_uri()
        found, offset = (
            found + base64.b64decode(blob.blob),
            result.structured_content["next_offset"],
        )
    assert found == data
    with pytest.raises(ToolError, match="Content is not base64"):
        await call(client, "write_file", path="b.bin", content="no!", encoding="base64")
    assert not folder.joinpath("b.bin").exists()
    empty = await call(client, "write_file", path="e.bin", content="", encoding="base64")
    assert "(0 bytes)" in empty.content[0].text
    assert len((await call(client, "read_file", path="e.bin")).content) == 1


async def test_pictures_are_seen(files: Any) -> None:
    from PIL import Image

    client, folder = files
    file = io.BytesIO()
    Image.new("RGB", (3000, 10), "red").save(file, "PNG")
    folder.joinpath("plot.dat").write_bytes(file.getvalue())
    result = await call(client, "read_file", path="plot.dat")
    assert result.content[1].mime_type == "image/png"
    assert "scaled down from 3,000 by 10" in result.content[0].text
    raw = await call(client, "read_file", path="plot.dat", encoding="bytes")
    assert base64.b64decode(raw.content[1].resource.blob) == file.getvalue()
    folder.joinpath("broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 50)
    folder.joinpath("huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0\0\xff\xff" * 50)
    with pytest.raises(ToolError, match=r"huge.png can't be sent: "):
        await call(client, "read_file", path="huge.png")
    with pytest.raises(ToolError, match="is broken"):
        await call(client, "read_file", path="broken.png")


@pytest.mark.slow
async def test_tables_are_their_first_rows(files: Any) -> None:
    pandas = pytest.importorskip("pandas")
    client, folder = files
    frame = pandas.DataFrame({"id": range(300), "name": ["a,\n" + "x" * 200] * 300})
    expected = 'id,name\n0,"a, ' + "x" * 56 + '…"\n'
    made = []
    try:
        with pandas.ExcelWriter(folder / "a.xlsx") as book:
            frame.to_excel(book, sheet_name="first", index=False)
            frame.to_excel(book, sheet_name="second", index=False)
        made.append(("a.xlsx", "sheet first, 2 columns", "other sheets: second"))
    except ImportError:
        pass
    try:
        polars = __import__("polars")
        polars.DataFrame(frame.to_dict("list")).write_parquet(folder / "a.parquet")
        made.append(("a.parquet", "300 rows, 2 columns: id ", ""))
    except ImportError:
        pass
    if not made:
        pytest.skip("no library for tables")
    for name, *parts in made:
        result = await call(client, "read_file", path=name)
        head, rows = result.content
        assert all(part in head.text for part in (*parts, "The first 20 rows follow")), head.text
        assert rows.text.startswith(expected)
        assert rows.text.count("\n") == 21
    for name in ("broken.xlsx", "broken.parquet"):
        folder.joinpath(name).write_bytes(b"PK\x03\x04 nothing")
        result = await call(client, "read_file", path=name)
        assert len(result.content) == 1 and "run_cell" in result.content[0].text


async def test_files_are_listed_in_pages_by_folder_and_pattern(files: Any) -> None:
    client, folder = files
    for name in ("a.csv", "sub/b.csv", "sub/c.txt", ".hidden", ".git/x", "__pycache__/y.pyc"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    os.utime(folder / "a.csv", (1e15, 1e15))  # no calendar has that day
    for arguments, names in (
        ({}, ["a.csv", "sub/b.csv", "sub/c.txt"]),
        ({"pattern": "*.csv"}, ["a.csv", "sub/b.csv"]),
        ({"pattern": "sub/*"}, ["sub/b.csv", "sub/c.txt"]),
        ({"folder": "sub"}, ["sub/b.csv", "sub/c.txt"]),
        ({"folder": ".git"}, [".git/x"]),
        ({"folder": "sub", "pattern": "*.py"}, []),
    ):
        result = await call(client, "list_files", **arguments)
        assert [one["path"] for one in result.structured_content["files"]] == names
        assert (len(names) or 1) == len(result.content[0].text.splitlines())
    for bad in ("none", "a.csv", "../x", "/etc"):
        with pytest.raises(ToolError, match="Error: "):
            await call(client, "list_files", folder=bad)
    for number in range(LISTED):
        (folder / f"f{number:03}").touch()
    result = await call(client, "list_files")
    assert result.content[0].text.endswith(f"[3 more files: offset={LISTED}]")
    rest = await call(client, "list_files", offset=LISTED)
    assert len(rest.structured_content["files"]) == 3


HOSTILE = {
    "up": "../outside.txt",
    "absolute": "{outside}",
    "link": "out.txt",
    "folder link": "out_folder/outside.txt",
    "proc": "/proc/self/environ",
    "proc root": "/proc/self/root/etc/passwd",
    "NUL": "a\0.txt",
    "surrogate": "\udcff.txt",
    "long": "x" * 5_000,
    "empty": "",
    "folder": "sub",
    "root": "{root}",
    "FIFO": "fifo",
    "circle": "loop",
    "the servers notebooks": "own/n.ipynb",
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")
@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
async def test_a_hostile_name_reads_and_writes_nothing(tmp_path: Path, name: str) -> None:
    folder, outside = tmp_path / "projects", tmp_path / "outside.txt"
    for made in (folder / "sub", folder / "own"):
        made.mkdir(parents=True)
    outside.write_text("secret")
    (folder / "own" / "n.ipynb").write_text("secret")
    (folder / "out.txt").symlink_to(outside)
    (folder / "out_folder").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    name = name.format(root=folder, outside=outside)
    before = sorted(folder.rglob("*"))
    settings = load(python_projects_dir=folder, notebooks_dir=folder / "own", kernel_pool=0)
    async with Client(App(settings).mcp) as client:
        for tool, more in (("read_file", {}), ("write_file", {"content": "x"})):
            with pytest.raises(ToolError) as refused:
                await call(client, tool, path=name, **more)
            assert "secret" not in str(refused.value) and len(str(refused.value)) < 1_500
    assert sorted(folder.rglob("*")) == before
    assert outside.read_text() == (folder / "own/n.ipynb").read_text() == "secret"


async def test_files_are_resources_with_their_types(files: Any) -> None:
    client, folder = files
    odd = "sub/größe 100% #1?.csv"
    for name, data, kind in (
        (odd, "a;ö\n".encode("latin-1"), "text/csv"),
        ("a.md", "ä".encode(), "text/markdown"),
        ("LICENSE", b"free", "text/plain"),
        ("b.png", b"\x89PNG\r\n\x1a\n\0", "image/png"),
        ("c.unknown", b"\0\1", "application/octet-stream"),
        ("d.tar.gz", b"\x1f\x8b", "application/octet-stream"),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        (content,) = await client.read_resource((folder / name).as_uri())
        assert content.mime_type == kind, name
        if hasattr(content, "blob"):
            assert base64.b64decode(content.blob) == data
        else:
            assert content.text.encode("latin-1" if name == odd else "utf-8") == data
    (template,) = [one for one in await client.list_resource_templates() if one.name == "file"]
    assert template.uri_template == "file://{path*}"
    reference = ResourceTemplateReference(type="ref/resource", uri=template.uri_template)
    found = await client.complete(reference, {"name": "path", "value": "b.PNG"})
    assert found.values == [(folder / "b.png").as_posix()]


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/passwd",
        "file://../x",
        "file:///{}/../x",
        "file://%2e%2e/x",
        "file:///proc/1/mem",
    ],
)
async def test_no_resource_leads_out(files: Any, uri: str) -> None:
    client, folder = files
    (folder.parent / "x").write_text("secret")
    with pytest.raises(MCPError) as refused:
        await client.read_resource(uri.format(str(folder).lstrip("/")))
    assert "secret" not in str(refused.value)


async def test_folders_that_the_client_has_open_are_offered(tmp_path: Path) -> None:
    folder = tmp_path / "projects"
    roots = [one.as_uri() for one in (tmp_path / "my app", folder / "sub")]
    roots.append("file://elsewhere/x")
    app = App(load(python_projects_dir=folder, kernel_pool=0))
    async with Client(app.mcp, roots=roots, mode="legacy") as client:
        listed = (await call(client, "list_files")).content[0].text
        assert f"[The client has also opened {tmp_path / 'my app'}, which" in listed
        assert "sub" not in listed and "elsewhere" not in listed
    async with Client(app.mcp) as client:
        assert "opened" not in (await call(client, "list_files")).content[0].text
