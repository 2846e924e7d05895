"""The client side: `RmiMcpClient` and the `rmi-agent` command.

Speaks only MCP; knows nothing about the server's code, kernels or notebook files.
"""

from typing import TYPE_CHECKING

from . import lazy

if TYPE_CHECKING:
    from .client import RmiMcpClient
    from .results import NotebookResult, Picture, ResumeResult, RunResult

__all__ = ["NotebookResult", "Picture", "ResumeResult", "RmiMcpClient", "RunResult"]

# `rmi-agent --help` needs no FastMCP.
__getattr__ = lazy.imports(
    __name__,
    {
        "client": ("RmiMcpClient",),
        "results": ("NotebookResult", "Picture", "ResumeResult", "RunResult"),
    },
)
