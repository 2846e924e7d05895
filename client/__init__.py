"""The client's side: `RmiMcpClient` and the `rmi-agent` command. Speaks MCP only."""

from .client import Picture, RmiMcpClient, RunResult

__all__ = ["Picture", "RmiMcpClient", "RunResult"]
