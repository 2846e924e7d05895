"""The client side: `RmiMcpClient` and the `rmi-agent` command.

Speaks only MCP; knows nothing about the server's code, kernels or notebook files.
"""

from .client import RmiMcpClient
from .results import Picture, ResumeResult, RunResult

__all__ = ["Picture", "ResumeResult", "RmiMcpClient", "RunResult"]
