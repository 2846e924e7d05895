"""The tools that list, read and write Python files: those for any file, as they once were."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastmcp import FastMCP
from fastmcp.tools import ToolResult
from mcp_types import TextContent
from pydantic import Field

from ..files import project_files as paths
from ..plurals import counted
from ..settings import Settings
from ..views import Worker, dimensions
from .arguments import CHANGES, READS, FileName
from .caller import failures_as_refusals
from .caller_files import CallerFiles
from .file_content import fitted_picture, room_of
from .file_tools import utc
from .results import listing
from .run_pictures import content

TEXT_SCHEMA = {
    "type": "object",
    "properties": {"result": {"type": "string"}},
    "required": ["result"],
    "x-fastmcp-wrap-result": True,  # as FastMCP marks the schema of a tool that returns a text
}
LISTED = 1000  # max files in a list


class PythonFileTools:
    """The tools that list, read and write Python files."""

    def __init__(self, settings: Settings, worker: Worker, files: CallerFiles) -> None:
        self.settings, self._worker, self._files = settings, worker, files

    def add_to(self, mcp: FastMCP[Any]) -> None:
        """Register the tools on `mcp`."""
        mcp.tool(self.list_python_files, annotations=READS)
        mcp.tool(self.read_python_file, output_schema=TEXT_SCHEMA, annotations=READS)
        mcp.tool(self.write_python_file, annotations=CHANGES)

    async def list_python_files(self) -> ToolResult:
        """List the Python files that run_python can run, with size and modification time."""
        with failures_as_refusals():
            files = self._files.of_caller()
            found = await asyncio.to_thread(lambda: list(files.walk(paths.PYTHON)))
        rows: list[dict[str, Any]] = [
            {
                "file_name": name,
                "bytes": status.st_size,
                "modified": utc(status.st_mtime),
            }
            for name, status in found[:LISTED]
        ]
        lines = [
            f"{paths.format_name(r['file_name'])}  {counted(r['bytes'], 'byte')}, {r['modified']}"
            for r in rows
        ]
        if len(found) > LISTED:
            lines.append(f"[Not listed: {counted(len(found) - LISTED, 'more file')}]")
        nothing = (
            f"No Python files in {', '.join(map(str, files.roots))}; write_python_file creates one."
        )
        return listing(lines or [nothing], {"files": rows, "total": len(found)})

    async def read_python_file(
        self,
        file_name: Annotated[
            str, Field(description="A .py file or a picture, relative to the projects folder.")
        ],
    ) -> ToolResult:
        """Read a Python file from the projects folder, to see or fix what run_python runs.

        Returns the file's text unchanged: none of it is the server's own. A picture that code has
        saved there (.png, .jpg, .gif, .webp) is returned as an image.
        """
        with failures_as_refusals():
            if paths.is_picture(file_name):
                data = await asyncio.to_thread(self._files.of_caller().read_picture, file_name)
                return await self._picture(file_name, data)
            text = await asyncio.to_thread(self._files.of_caller().read_text, file_name)
            return ToolResult(content=text, structured_content={"result": text})

    async def _picture(self, file_name: str, data: bytes) -> ToolResult:
        name, room = paths.format_name(file_name), room_of(self.settings.result_size)
        picture = await fitted_picture(name, data, room, self._worker)
        width, height = dimensions(picture.data)
        about = f"{name}: {picture.change or f'{width:,} by {height:,} pixels'}"
        text = TextContent(type="text", text=about)
        return ToolResult(content=[text, content(picture)], structured_content={"result": about})

    async def write_python_file(
        self,
        file_name: FileName,
        content: Annotated[str, Field(description="The complete new text of the file.")],
    ) -> str:
        """Write a Python file into the projects folder, replacing it if it exists.

        Use it to create a script for run_python or to fix one (no tool edits part of a file).
        Missing folders are created.
        """
        with failures_as_refusals():
            name, new = await asyncio.to_thread(self._files.of_caller().write, file_name, content)
            did = "Created" if new else "Replaced"
            return f"{did} {paths.format_name(name)} ({counted(len(content), 'character')})."
