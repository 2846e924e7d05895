"""Addresses of Jupyter Servers and of kernels on them. Data only; knows no protocol."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class JupyterServer:
    """A Jupyter Server that kernels can run on.

    Attributes:
        url: URL of the server, with its base path and without a trailing slash.
        token: the server's access token, a secret; empty if none.
    """

    url: str
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class RemoteKernel:
    """An existing kernel on a Jupyter Server.

    Attributes:
        url: URL of its server.
        kernel_id: its id on the server.
        process: the session id in its messages, which changes on a restart; empty if unknown.
    """

    url: str
    kernel_id: str
    process: str = ""
