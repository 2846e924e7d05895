"""The files that one `run_cell` in an open session crosses, in the order of its way through them.

    python -m benchmarks.route

Counts calls of this project's own functions by the call itself and by the tasks and threads that it
starts; not what runs beside it, such as the watch over idle sessions.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
from collections import Counter
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any

from fastmcp import Client
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from rmi_agent.server import App, load

ROOT = Path(__file__).parent.parent
FLOORS = ("server", "kernels")
CODE = "x + 1"  # of the call that is measured
CALL: ContextVar[str] = ContextVar("call", default="")  # the code of the current call


class Route(Middleware):
    """The outermost middleware, which marks the context of each call; counts in one of them."""

    def __init__(self) -> None:
        self.calls = Counter[str]()  # by file, in the order of the first call

    async def on_call_tool(
        self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]
    ) -> Any:
        """Mark the context, which the tasks and threads of this call inherit."""
        CALL.set((context.message.arguments or {})["code"])
        return await call_next(context)

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        """Count a function call; what `sys.setprofile` is given."""
        if event == "call" and CALL.get() == CODE:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in FLOORS:
                self.calls[path.relative_to(ROOT).as_posix()] += 1


async def measured(folder: Path) -> Counter[str]:
    """The calls of the second cell of a session."""
    settings = load(python_projects_dir=folder, notebooks_dir=folder, sandbox="off", kernel_pool=1)
    route = Route()
    threading.setprofile(route.profile)  # for threads that start from now on
    app = App(settings)
    app.mcp.middleware.insert(0, route)
    async with Client(app.mcp) as client:
        first = await client.call_tool("run_cell", {"code": "x = 1"})
        session = first.structured_content["session_id"]
        await asyncio.sleep(3)  # until pool and signing are quiet
        sys.setprofile(route.profile)
        await client.call_tool("run_cell", {"code": CODE, "session_id": session})
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
