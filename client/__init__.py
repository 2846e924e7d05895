"""The client's side: `RmiMcpClient` and the `rmi-agent` command. Speaks MCP only."""

from .client import RmiMcpClient
from .results import Picture, RunResult

__all__ = ["Picture", "RmiMcpClient", "RunResult"]
