"""A file as a model can take it: text in pages, a picture, the first rows of a table, or bytes.

Whatever must be parsed is parsed in the worker. Knows files and MCP content, no names.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from fastmcp.tools import ToolResult
from mcp_types import BlobResourceContents, ContentBlock, EmbeddedResource, TextContent

from ..errors import WorkerError
from ..files import FileStatus, OpenFile, TextPage, project_files, text_page
from ..plurals import counted
from ..refusals import Refusal
from ..views import Picture, Worker, dimensions, fitted, type_of
from .notebook_pages import json_size
from .results import AROUND
from .run_pictures import content, reason_of

TABLES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".feather": "feather",
    ".arrow": "feather",
    ".xlsx": "excel",
    ".xlsm": "excel",
    ".xls": "excel",
    ".ods": "excel",
}
READERS = {"parquet": "pd.read_parquet", "feather": "pd.read_feather", "excel": "pd.read_excel"}
TABLE_MOST = 50_000_000  # max bytes of a table's file
ROWS = 20  # shown of a table


@dataclass(frozen=True)
class Wanted:
    """What is asked of a file: `limit` bytes from `offset` on, in a text encoding or as bytes."""

    offset: int
    limit: int
    encoding: str | None = None
    as_bytes: bool = False


@dataclass(frozen=True)
class Part:
    """What was read of a file.

    Attributes:
        status: the file.
        page: its text, if it is text.
        data: its bytes otherwise: all of a picture's or a table's, else those asked for.
        kind: "picture", how a table is parsed, or empty for text and bytes.
        offset: where the bytes begin.
    """

    status: FileStatus
    page: TextPage | None
    data: bytes = b""
    kind: str = ""
    offset: int = 0


def read_part(file: OpenFile, status: FileStatus, wanted: Wanted, room: int) -> Part:
    """Read what is asked of a file; takes time, so use a thread.

    Args:
        file: the open file.
        status: its name, size and time.
        wanted: what is asked.
        room: max bytes of the result's JSON.

    Raises:
        Refusal: a picture is too large.
    """
    if not wanted.as_bytes and wanted.encoding is None:
        if type_of(file.read(0, 32)):
            if status.size > project_files.MOST:
                name = project_files.format_name(status.name)
                raise Refusal(
                    f"Error: {name} is too large for a picture: it has {status.size:,} bytes, of at"
                    f" most {project_files.MOST:,}. Scale it down with run_cell."
                )
            return Part(status, None, file.read(0, status.size), "picture")
        if table := TABLES.get(status.path.suffix.lower(), ""):
            whole = file.read(0, status.size) if status.size <= TABLE_MOST else b""
            return Part(status, None, whole, table)
    limit = wanted.limit
    while not wanted.as_bytes:
        is_python = status.path.suffix == ".py"
        page = text_page(file, wanted.offset, limit, wanted.encoding, is_python)
        if page is None:
            break
        if json_size(page.text) <= room or limit <= 8:
            return Part(status, page)
        limit //= 2
    size = status.size
    start = min(wanted.offset, size) if wanted.offset >= 0 else max(0, size + wanted.offset)
    return Part(status, None, file.read(start, min(wanted.limit, room // 4 * 3)), offset=start)


async def file_result(part: Part, room: int, worker: Worker, more: str = "") -> ToolResult:
    """A tool result with what was read; `more` is said of the file.

    Raises:
        Refusal: a picture can't be sent.
    """
    name = project_files.format_name(part.status.name)
    size = counted(part.status.size, "byte")
    facts: dict[str, Any] = {
        "path": part.status.name,
        "bytes": part.status.size,
        "mime_type": project_files.mime_type(part.status.name),
        "encoding": None,
        "offset": 0,
        "next_offset": None,
    }
    if part.page is not None:
        page = part.page
        about = f"{name}: {size}, {page.encoding}{' (a guess)' if page.is_guess else ''}"
        if "\ufffd" in page.text:
            about += ", of which some bytes are invalid (U+FFFD)"
        facts |= {"encoding": page.encoding, "offset": page.start}
        facts |= span(page.start, page.end, part.status.size)
        blocks: list[ContentBlock] = [TextContent(type="text", text=page.text)] if page.text else []
    elif part.kind == "picture":
        picture = await fitted_picture(name, part.data, room, worker)
        width, height = dimensions(picture.data)
        about = f"{name}: {size}, {picture.change or f'{width:,} by {height:,} pixels'}"
        facts["mime_type"] = type_of(part.data)
        blocks = [content(picture)]
    elif part.kind:
        about, text = await table_text(part, worker)
        blocks = [TextContent(type="text", text=text)] if text else []
    else:
        about = f"{name}: {size}, {facts['mime_type']}, binary"
        facts["offset"] = part.offset
        facts |= span(part.offset, part.offset + len(part.data), part.status.size)
        blob = BlobResourceContents(
            uri=part.status.path.as_uri(),
            mime_type=facts["mime_type"],
            blob=base64.b64encode(part.data).decode(),
        )
        blocks = [EmbeddedResource(type="resource", resource=blob)] if part.data else []
    if part.offset or facts["offset"] or facts["next_offset"] is not None:
        end = facts["next_offset"] or part.status.size
        about += f". Here: bytes {facts['offset']:,} to {end:,}"
        if facts["next_offset"] is not None:
            about += f"; offset={facts['next_offset']} reads on"
    said = f"{about}. {more}" if more else about
    first = TextContent(type="text", text=f"[rmi-agent: {said}]")
    return ToolResult(content=[first, *blocks], structured_content=facts)


def span(start: int, end: int, size: int) -> dict[str, int | None]:
    """Where a page begins and the next one does, if there is one."""
    return {"offset": start, "next_offset": end if end < size else None}


async def fitted_picture(name: str, data: bytes, room: int, worker: Worker) -> Picture:
    """A picture of a file, scaled down if it must be.

    Raises:
        Refusal: it is none, or can't be sent.
    """
    if not all(dimensions(data)):
        raise Refusal(f"Error: {name} is no PNG, JPEG, GIF or WebP picture, or is broken.")
    try:
        return await worker.in_thread(fitted, Picture(type_of(data), data), room, worker)
    except WorkerError as error:
        raise Refusal(f"Error: {name} can't be sent: {reason_of(error)}.") from error


async def table_text(part: Part, worker: Worker) -> tuple[str, str]:
    """What is said of a table, and its first rows; those are empty if it can't be parsed here."""
    name = project_files.format_name(part.status.name)
    about = f"{name}: {counted(part.status.size, 'byte')}"
    call = f"{READERS[part.kind]}({part.status.name!r}).head()"
    if not part.data:
        why = "it is empty" if not part.status.size else f"more than {TABLE_MOST:,}"
        return f"{about}, {why}; run_cell can read a part of it", ""
    request = {"kind": part.kind, "rows": ROWS}
    try:
        found = await worker.in_thread(worker.ask, "table", request, part.data)
    except WorkerError as error:
        why = str(error)
        if "No module named" in why or "ImportError" in why:
            why = "no library for it is installed beside the server"
        return f"{about}; its rows can't be shown ({why[:200]}): try {call} in run_cell", ""
    head, _, rows = found.decode("utf-8", "replace").partition("\n")
    return f"{about}, {head}", rows


def room_of(result_size: int) -> int:
    """Max bytes of a file's content in a result."""
    return result_size - AROUND
