"""A server that completes and inspects, and runs nothing: it says what it was given."""

from __future__ import annotations

import re
from typing import Any

from fastmcp import FastMCP
from fastmcp.exceptions import ResourceError
from fastmcp.tools import ToolResult
from mcp_types import TextContent

NAMES = ["linspace", "linalg", "lines_é"]  # all there is in `np.`
FACTS = {
    "session_id": "s1",
    "cell": 1,
    "execution_count": 1,
    "status": "ok",
    "exit_code": None,
    "error_name": None,
    "timed_out": False,
    "state": "kept",
    "elapsed": 0.0,
    "truncated": False,
    "notebook": None,
}

mcp: FastMCP[Any] = FastMCP("completing")


@mcp.tool
def run_cell(code: str, session_id: str | None = None, timeout: float | None = None) -> ToolResult:
    """Say what was to be run."""
    text = f"ran {code!r}\n"
    return ToolResult(
        content=[TextContent(type="text", text=text)],
        structured_content=FACTS,
        meta={"rmi_agent": {"sections": {"stdout": (0, len(text))}, "shown": len(text)}},
    )


@mcp.tool
def close_session(session_id: str) -> str:
    """Say so."""
    return f"Session {session_id} is closed."


@mcp.resource("variable://{session_id}/{name}")
def variable(session_id: str, name: str) -> str:
    """What is known of a name."""
    if name != "np.linspace":
        raise ResourceError(f"There is no {name}.")
    return f"Signature: {name}(start, stop)\nin {session_id}"


@mcp.completion
async def complete(ref: Any, argument: Any, context: Any) -> list[str]:
    """Whole replacements of the code, as a kernel would have them."""
    assert ref.uri == "variable://{session_id}/{name}"
    assert context.arguments == {"session_id": "s1"}
    head, word = re.fullmatch(r"(?s)(.*?np\.)(\w*)", argument.value).groups()  # type: ignore[union-attr]
    return [head + name for name in NAMES if name.startswith(word)]


if __name__ == "__main__":
    mcp.run(show_banner=False)
