"""A rival: a FastMCP server with one tool that does nothing."""

from fastmcp import FastMCP

mcp = FastMCP("nothing")


@mcp.tool
async def nothing(code: str) -> str:
    """Do nothing."""
    return "2"


mcp.run(show_banner=False, log_level="ERROR")
