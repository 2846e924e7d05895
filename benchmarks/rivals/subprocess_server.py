"""A rival: a FastMCP server whose `run_python` is a bare `subprocess.run`, as is usual."""

import asyncio
import subprocess
import sys

from fastmcp import FastMCP

mcp = FastMCP("subprocess")


@mcp.tool
async def run_python(file_name: str) -> str:
    """Run a file."""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, file_name], capture_output=True, text=True
    )
    return str(done.stdout + done.stderr)


mcp.run(show_banner=False, log_level="ERROR")
