"""Addresses of Jupyter Servers and of existing kernels. Data only; knows no protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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


@dataclass(frozen=True)
class PersonsKernel:
    """A kernel that a person has started and owns, for a session to join.

    Attributes:
        name: the file name of its connection file, or its id on its server.
        connection: what its connection file says, a secret; None if it is joined by its server.
        server: the Jupyter Server that it is joined by; None if it is joined by its file.
    """

    name: str
    connection: Mapping[str, Any] | None = field(default=None, repr=False)
    server: JupyterServer | None = None

    def __str__(self) -> str:
        return f"{self.name} on {self.server.url}" if self.server is not None else self.name

    @property
    def record(self) -> dict[str, str]:
        """What the session's notebook says of it."""
        if self.server is None:
            return {"connection_file": self.name}
        return {"server": self.server.url, "kernel_id": self.name}
