"""The client side: `RmiMcpClient` and the `rmi-agent` command.

Speaks only MCP; knows nothing about the server's code, kernels or notebook files.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import RmiMcpClient
    from .results import NotebookResult, Picture, ResumeResult, RunResult

__all__ = ["NotebookResult", "Picture", "ResumeResult", "RmiMcpClient", "RunResult"]


def __getattr__(name: str) -> object:
    """Import what is offered on first access: `rmi-agent --help` needs no FastMCP."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import client, results

    found: object = getattr(client if name == "RmiMcpClient" else results, name)
    globals()[name] = found  # later accesses skip this function
    return found
