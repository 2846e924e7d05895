"""The client side: `RmiMcpClient` and the `rmi-agent` command. Speaks only MCP."""

from .client import RmiMcpClient
from .results import Picture, ResumeResult, RunResult

__all__ = ["Picture", "ResumeResult", "RmiMcpClient", "RunResult"]
