"""The tools that list, read and write Python files in the projects folder."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

from fastmcp import FastMCP
from fastmcp.tools import ToolResult
from pydantic import Field

from ..files import project_files as paths
from ..settings import Settings
from .arguments import CHANGES, READS, FileName
from .caller import failures_as_refusals
from .results import listing

LISTED = 1000  # max files in a list


class FileTools:
    """The tools that list, read and write Python files."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def add_to(self, mcp: FastMCP[Any]) -> None:
        """Register the tools on `mcp`."""
        mcp.tool(self.list_python_files, annotations=READS)
        mcp.tool(self.read_python_file, annotations=READS)
        mcp.tool(self.write_python_file, annotations=CHANGES)

    async def list_python_files(self) -> ToolResult:
        """List the Python files that run_python can run, with size and modification time."""
        with failures_as_refusals():
            found = await asyncio.to_thread(lambda: list(paths.walk(self.settings.projects)))
        rows: list[dict[str, Any]] = [
            {
                "file_name": name,
                "bytes": status.st_size,
                "modified": utc(status.st_mtime),
            }
            for name, status in found[:LISTED]
        ]
        lines = [
            f"{paths.shown(r['file_name'])}  {r['bytes']} bytes, {r['modified']}" for r in rows
        ]
        if len(found) > LISTED:
            lines.append(f"[{len(found) - LISTED} more files are not listed]")
        nothing = f"No Python files in {self.settings.projects}; write_python_file creates one."
        return listing(lines or [nothing], {"files": rows, "total": len(found)})

    async def read_python_file(self, file_name: FileName) -> str:
        """Read a Python file from the projects folder, to see or fix what run_python runs.

        Returns the file's text unchanged: none of it is the server's own.
        """
        with failures_as_refusals():
            return await asyncio.to_thread(paths.read_text, self.settings.projects, file_name)

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
            name, new = await asyncio.to_thread(
                paths.write, self.settings.projects, file_name, content
            )
            did = "Created" if new else "Replaced"
            return f"{did} {paths.shown(name)} ({len(content):,} characters)."


def utc(seconds: float) -> str:
    """A file's time as ISO 8601, clamped: files may have times that no calendar has."""
    last = datetime.max.replace(tzinfo=UTC).timestamp() - 1
    return datetime.fromtimestamp(min(max(seconds, 0), last), UTC).isoformat("T", "seconds")
