"""Two common requests, worded so that a model handles them well.

Text only: the model decides what to run, through the tools.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastmcp import FastMCP
from pydantic import Field

from .caller import failures_as_refusals
from .caller_files import CallerFiles

FIX_SCRIPT = """\
Make {name} work; it is a file in the projects folder.

1. Run it: run_python(file_name={name!r}). If it does what it should, say so and stop.
2. If it fails, read the traceback, and read the file with read_python_file. If the cause is not
   obvious, inspect the variables as they were at the failure: run_cell with the session_id of
   the failed run.
3. Fix the cause, not the symptom, and change as little as you can: write_python_file with the
   complete new text. Then run it again, and repeat until it works.
4. If a package is missing, input is needed, or the fix requires a decision, ask me first.
5. Tell me what was wrong, what you changed, and what the last run printed."""

EXPLORE_DATA = """\
Explore the data in {name} and tell me what is in it. Do everything in one session: omit
session_id in the first run_cell, and pass the one it returns to all later calls.

1. Load it with run_cell (with pandas, if it is installed and suitable). Relative paths start at
   the projects folder, where cells run. If the file is large, check its size first and load a part.
2. Look at the columns, types, row count, a few rows, missing values, duplicates, and a summary of
   each kind of column. The last expression of a cell is returned without print.
3. Draw two or three plots that show what matters (matplotlib; they are returned as images).
4. Tell me in plain words what a row is, what stands out, what looks doubtful in the data, and
   which three questions are worth asking next. Do not change any file."""


class Prompts:
    """The prompts of one server."""

    def __init__(self, files: CallerFiles) -> None:
        self._files = files

    def add_to(self, mcp: FastMCP[Any]) -> None:
        """Register the prompts on `mcp`."""
        mcp.prompt(self.fix_script)
        mcp.prompt(self.explore_data)

    async def fix_script(
        self,
        file_name: Annotated[str, Field(description="A .py file in the projects folder.")],
    ) -> str:
        """Run a script, find out why it fails, fix it, and rerun it until it works."""
        with failures_as_refusals():
            file = await asyncio.to_thread(self._files.of_caller().read_python, file_name)
        return FIX_SCRIPT.format(name=file.name)

    async def explore_data(
        self,
        path: Annotated[
            str, Field(description="A data file, relative to the projects folder or absolute.")
        ],
    ) -> str:
        """Load a data file, examine it, plot it, and describe what is in it."""
        with failures_as_refusals():
            name = await asyncio.to_thread(self._files.of_caller().existing, path)
        return EXPLORE_DATA.format(name=repr(name))
