"""The file tools by the wire: odd names, odd bytes, and that `run_python` runs what was read."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.exceptions import ToolError
from mcp import MCPError

pytestmark = pytest.mark.anyio
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX names and links")


async def called(client: Client[Any], tool: str, **arguments: Any) -> str:
    return str((await client.call_tool(tool, arguments)).content[0].text)


@pytest.mark.slow
@POSIX
async def test_a_name_that_would_forge_a_line_is_listed_escaped(
    client: Client[Any], projects: Path
) -> None:
    name = "x.py  9 bytes\nforged.py"
    assert r"'x.py  9 bytes\nforged.py'" in await called(
        client, "write_python_file", file_name=name, content="print(6 * 7)"
    )
    os.utime(projects / name, (1e15, 1e15))  # no calendar has that day
    try:
        result = await client.call_tool("list_python_files", {})
        lines = result.content[0].text.splitlines()
        (line,) = [line for line in lines if "forged" in line]
        assert line.startswith(r"'x.py  9 bytes\nforged.py'  12 bytes, ")
        assert name in [file["file_name"] for file in result.structured_content["files"]]
        assert "42" in await called(client, "run_python", file_name=name)
    finally:
        (projects / name).unlink()


@pytest.mark.parametrize("tool", ["run_python", "read_python_file"])
async def test_a_name_that_is_no_text_is_an_error_that_arrives(
    client: Client[Any], tool: str
) -> None:
    with pytest.raises(ToolError):
        await client.call_tool(tool, {"file_name": "\udcff.py"})


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("python-file://..%2f..%2fetc%2fpasswd", "Resource not found"),  # FastMCP's own guard
        ("python-file://missing.py", "Error: File not found: missing.py. list_files"),
        ("notebook://nobody", "There is no session 'nobody'"),
    ],
)
async def test_a_resource_that_cannot_be_read_says_why_without_a_traceback_in_the_log(
    client: Client[Any], caplog: pytest.LogCaptureFixture, uri: str, words: str
) -> None:
    with pytest.raises(MCPError, match=re.escape(words)):
        await client.read_resource(uri)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@POSIX
async def test_a_link_out_is_not_run_read_written_or_listed(
    client: Client[Any], projects: Path
) -> None:
    outside = projects.parent / "outside.py"
    outside.write_text("print('ran')")
    (projects / "out.py").symlink_to(outside)
    try:
        for tool, more in (
            ("run_python", {}),
            ("read_python_file", {}),
            ("write_python_file", {"content": "x"}),
        ):
            with pytest.raises(ToolError, match="Error: Access denied"):
                await client.call_tool(tool, {"file_name": "out.py", **more})
        assert "out.py" not in await called(client, "list_python_files")
        assert outside.read_text() == "print('ran')"
    finally:
        (projects / "out.py").unlink()


async def test_a_file_is_shown_and_written_back_in_its_own_encoding(
    client: Client[Any], projects: Path
) -> None:
    (projects / "old.py").write_bytes(b"# coding: latin-1\nprint('\xe9')\n")
    text = await called(client, "read_python_file", file_name="old.py")
    assert text == "# coding: latin-1\nprint('é')\n"
    await called(client, "write_python_file", file_name="old.py", content=text.replace("é", "éé"))
    assert (projects / "old.py").read_bytes() == b"# coding: latin-1\nprint('\xe9\xe9')\n"
    assert "éé" in await called(client, "run_python", file_name="old.py")


@pytest.mark.parametrize("coding", ["hex", "punycode", "undefined", "none-such"])
async def test_a_coding_that_is_none_is_the_scripts_error_and_not_ours(
    client: Client[Any], projects: Path, coding: str
) -> None:
    (projects / "odd.py").write_text(f"# coding: {coding}\nprint('{'x' * 1000}')\n")
    result = await client.call_tool("run_python", {"file_name": "odd.py"})
    assert result.structured_content["status"] in ("ok", "error")
