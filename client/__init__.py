"""The client's side: `RmiMcpClient` and the `rmi-agent` command. Speaks MCP only."""

from .client import RmiMcpClient
from .results import Picture, ResumeResult, RunResult

__all__ = ["Picture", "ResumeResult", "RmiMcpClient", "RunResult"]
