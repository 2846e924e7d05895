"""The files that one `run_cell` in an open session crosses, in the order of its way through them.

    python -m benchmarks.route

Counts calls of this project's own functions, on every thread of the server, while one cell runs.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from fastmcp import Client
from rmi_agent.server import App, load

ROOT = Path(__file__).parent.parent
FLOORS = ("server", "kernels")


class Route:
    """What `sys.setprofile` is given."""

    def __init__(self) -> None:
        self.calls = Counter[str]()  # by file, in the order of the first call

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in FLOORS:
                self.calls[path.relative_to(ROOT).as_posix()] += 1


async def measured(folder: Path) -> Counter[str]:
    """The calls of the second cell of a session."""
    settings = load(
        python_projects_dir=folder,
        notebooks_dir=folder,
        sandbox="off",
        kernel_pool=1,
        memory_limit=0,  # whose watch is no part of the way
    )
    route = Route()
    threading.setprofile(route)  # for threads that start from now on
    async with Client(App(settings).mcp) as client:
        first = await client.call_tool("run_cell", {"code": "x = 1"})
        session = first.structured_content["session_id"]
        await asyncio.sleep(3)  # until pool and signing are quiet
        route.calls.clear()
        sys.setprofile(route)
        await client.call_tool("run_cell", {"code": "x + 1", "session_id": session})
        sys.setprofile(None)
    return Counter(route.calls)


def main() -> None:
    """Print the files, and how many calls each has had."""
    with tempfile.TemporaryDirectory() as folder:
        calls = asyncio.run(measured(Path(folder)))
    for path, count in calls.items():
        print(f"{count:5}  {path}")
    folders = {str(Path(path).parent) for path in calls}
    print(f"{calls.total():,} calls in {len(calls)} files of {len(folders)} folders")


if __name__ == "__main__":
    main()
