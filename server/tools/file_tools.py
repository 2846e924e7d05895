"""The tools that list, read and write any file of the projects."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from datetime import UTC, datetime
from fnmatch import fnmatch
from itertools import islice
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastmcp import Context, FastMCP
from fastmcp.tools import ToolResult
from pydantic import Field

from ...kernels import LOCAL, encoded
from ..errors import PathNotAllowedError
from ..files import Projects, project_files, text_codec
from ..plurals import counted
from ..refusals import Refusal
from ..settings import Settings
from ..views import Worker
from .arguments import CHANGES, READS
from .caller import failures_as_refusals, principal
from .caller_files import CallerFiles
from .client_roots import offered_roots
from .file_content import Part, Wanted, file_result, read_part, room_of
from .remote_files import RemoteFiles
from .results import PAGE, listing

LISTED = 200  # files on a page of a list
FOUND = 50_000  # max files that are looked at for a list

FilePath = Annotated[
    str,
    Field(description="A file, relative to the projects folder ('data/a.csv') or absolute."),
]


class FileTools:
    """The tools for any file."""

    def __init__(
        self, settings: Settings, worker: Worker, files: CallerFiles, remote: RemoteFiles
    ) -> None:
        self._settings, self._worker, self._files = settings, worker, files
        self._remote = remote

    def add_to(self, mcp: FastMCP[Any]) -> None:
        """Register the tools on `mcp`."""
        mcp.tool(self.list_files, annotations=READS)
        mcp.tool(self.read_file, annotations=READS)
        mcp.tool(self.write_file, annotations=CHANGES)

    async def list_files(
        self,
        ctx: Context,
        folder: Annotated[str, Field(description="List only this folder.")] = "",
        pattern: Annotated[
            str,
            Field(
                max_length=1_000,
                description="Only files whose name or path matches: '*.csv', 'data/**/a?.txt'.",
            ),
        ] = "",
        offset: Annotated[int, Field(ge=0, le=1_000_000, description="Files to skip.")] = 0,
    ) -> ToolResult:
        """List the files beneath the projects folder, with size and modification time.

        Hidden files, virtual environments and caches are left out.
        """
        with failures_as_refusals():
            files = self._files.of_caller()
            found, whole = await asyncio.to_thread(matching, files, folder, pattern)
        page = found[offset : offset + LISTED]
        rows = [
            {"path": name, "bytes": size, "modified": utc(modified)}
            for name, size, modified in page
        ]
        lines = [
            f"{project_files.format_name(name)}  {counted(size, 'byte')}, {utc(modified)}"
            for name, size, modified in page
        ]
        if not lines:
            places = folder or ", ".join(map(str, files.roots))
            lines = [f"No such files in {places}; write_file creates one."]
        end = offset + len(page)
        if left := len(found) - end:
            lines.append(f"[{counted(left, 'more file')}: offset={end}]")
        if not whole:
            lines.append(f"[Only the first {FOUND:,} files were looked at: name a folder]")
        if about := self._remote.about(ctx):
            lines.append(f"[{about}]")
        elif not folder and principal() == LOCAL:
            lines += filter(None, [await offered_roots(ctx, files.roots)])
        facts = {"files": rows, "total": len(found), "next_offset": end if left else None}
        return listing(lines, facts)

    async def read_file(
        self,
        ctx: Context,
        path: FilePath,
        offset: Annotated[
            int,
            Field(
                ge=-(10**15),
                le=10**15,
                description="Bytes to skip; negative: the last bytes of the file.",
            ),
        ] = 0,
        limit: Annotated[int, Field(gt=0, le=500_000, description="Max bytes to return.")] = PAGE,
        encoding: Annotated[
            str,
            Field(
                description="Encoding of the text, if the one in the result is wrong; 'bytes': a"
                " blob."
            ),
        ] = "",
    ) -> ToolResult:
        """Read a file of the projects: text, a picture, the first rows of a table, or bytes.

        The first block is the server's and tells size and encoding; the file's text follows
        unchanged. PNG, JPEG, GIF and WebP are returned as images, the first rows of Parquet,
        Feather and Excel files as CSV, and other binary files as a blob. Large files are read in
        pages.
        """
        codec = None if encoding in ("", "bytes") else known_codec(encoding)
        wanted = Wanted(offset, limit, codec, encoding == "bytes")
        room = room_of(self._settings.result_size)
        with failures_as_refusals():
            files = self._files.of_caller()

            def read() -> Part:
                with files.opened(path) as (file, status):
                    return read_part(file, status, wanted, room)

            part = await asyncio.to_thread(read)
            download = self._remote.line(ctx, [part.status])
            return await file_result(part, room, self._worker, download)

    async def write_file(
        self,
        path: FilePath,
        content: Annotated[str, Field(description="The complete new content.")],
        encoding: Annotated[
            str, Field(description="Encoding of the text; 'base64': the content is bytes.")
        ] = "utf-8",
    ) -> str:
        """Write a file of the projects, replacing it if it exists; missing folders are created."""
        encode = encoder(path, encoding)
        with failures_as_refusals():
            files = self._files.of_caller()
            name, size, new = await asyncio.to_thread(write_content, files, path, encode, content)
        did = "Created" if new else "Replaced"
        return f"{did} {project_files.format_name(name)} ({counted(size, 'byte')})."


def matching(
    files: Projects, folder: str, pattern: str
) -> tuple[list[tuple[str, int, float]], bool]:
    """The files that match: name, bytes, time; and whether all were looked at.

    Raises:
        PathNotAllowedError: the folder can't be listed.
    """
    looked = list(islice(files.walk(None, folder), FOUND + 1))
    found = [
        (name, status.st_size, status.st_mtime)
        for name, status in looked[:FOUND]
        if not pattern or matches(name, pattern)
    ]
    return found, len(looked) <= FOUND


def matches(name: str, pattern: str) -> bool:
    """Whether a file's name or path matches; `**/` stands for any folders, also for none."""
    patterns = {pattern, pattern.replace("**/", "")}
    return any(fnmatch(part, one) for part in (name, PurePosixPath(name).name) for one in patterns)


def known_codec(encoding: str) -> str:
    """Python's name of a text encoding.

    Raises:
        Refusal: there is no such encoding.
    """
    codec = text_codec(encoding) if len(encoding) < 100 else None
    if codec is None:
        raise Refusal(
            f"Error: {encoding[:100]!r} is no encoding of text files. Use 'utf-8', 'latin-1',"
            " 'utf-16' or another of Python's."
        )
    return codec


def encoder(path: str, encoding: str) -> Callable[[str], bytes]:
    """What makes bytes of a content.

    Raises:
        Refusal: there is no such encoding.
    """
    if encoding == "base64":
        return lambda content: base64.b64decode("".join(content.split()), validate=True)
    if encoding == "utf-8" and PurePosixPath(path).suffix == ".py":
        return encoded  # as its coding line says
    codec = known_codec(encoding)
    return lambda content: content.encode(codec)


def write_content(
    files: Projects, path: str, encode: Callable[[str], bytes], content: str
) -> tuple[str, int, bool]:
    """Write a file; returns its name, its bytes, and whether it is new.

    Raises:
        PathNotAllowedError: it can't be written, or the content can't be encoded.
    """
    try:
        data = encode(content)
    except UnicodeEncodeError as error:
        raise PathNotAllowedError(
            f"Error: Content can't be encoded as {error.encoding}, which lacks"
            f" {content[error.start]!r}. Remove that character, or use another encoding."
        ) from None
    except (binascii.Error, ValueError) as error:
        raise PathNotAllowedError(
            f"Error: Content is not base64: {error}. Nothing was written."
        ) from None
    name, new = files.write_bytes(path, data)
    return name, len(data), new


def utc(seconds: float) -> str:
    """A file's time as ISO 8601, clamped: files may have times that no calendar has."""
    last = datetime.max.replace(tzinfo=UTC).timestamp() - 1
    return datetime.fromtimestamp(min(max(seconds, 0), last), UTC).isoformat("T", "seconds")
