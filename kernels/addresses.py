"""Where else kernels can be: a Jupyter Server, and a kernel on one. Data; knows no protocol."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class JupyterServer:
    """Where kernels can run.

    Attributes:
        url: of the server, with its base path and without a slash at its end.
        token: what it asks for; a secret.
    """

    url: str
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class RemoteKernel:
    """A kernel that is there already.

    Attributes:
        url: of its server.
        kernel_id: what the server calls it.
        process: what its messages call it, which changes when it is restarted; empty if unknown.
    """

    url: str
    kernel_id: str
    process: str = ""
