"""One server that a stdio process can attach to: its address, our credentials, and what it reports.

Sends requests about the server itself, never a user's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from pydantic import BaseModel, ValidationError

from ..errors import AttachError, BadSettings
from ..state_dir import VERSION
from .record import Record, recorded

ANSWER_TIMEOUT = 5.0  # max seconds for an answer from a server on this machine
FACTS_LIMIT = 100_000  # max bytes of a server's facts
FACTS_PATH = "/resident"
START = "rmi-agent start"
STOP = "rmi-agent stop"
RESTART = f"Run: {STOP}, then {START}"


class Facts(BaseModel):
    """What a server reports about itself to an authenticated caller."""

    version: str  # the package's, when the server started
    pid: int
    started: float  # seconds since 1970
    prefix: str  # `sys.prefix`, whose packages kernels have
    projects: str
    notebooks: str
    settings: dict[str, Any]  # the other settings that sessions depend on, as JSON
    busy: int  # sessions with a running cell
    idle: int  # other sessions
    sessions: list[str] = []  # their ids, for completion in a shell


class Caller(BaseModel):
    """What a command of this user says of itself to learn whether it may use the server."""

    version: str  # the package's
    prefix: str  # `sys.prefix`
    home: str  # what ~ stands for
    folder: str  # its current folder
    environ: dict[str, str]  # the variables that the server's record names, where they are set
    paths: list[str] = []  # files and folders, relative to the projects folder, that it needs


@dataclass(frozen=True)
class Endpoint:
    """A server's address and our credentials for it.

    Attributes:
        url: its TCP base URL, which names it in messages.
        token: its bearer token, which is sent nowhere else.
        record: the background server's record; its socket is used instead of TCP.
        start: identifies one start of the server; empty until its facts have been read.
    """

    url: str
    token: str = field(repr=False)
    record: Record | None = None
    start: str = ""

    @property
    def label(self) -> str:
        """The server's name in messages."""
        process = f" (process {self.record.pid})" if self.record else ""
        return f"The background server at {self.url}{process}"

    @property
    def base_url(self) -> str:
        """The base of request URLs; with a Unix socket, its host is a placeholder."""
        return "http://localhost" if self.record else self.url

    def client(self, timeout: httpx2.Timeout | float = ANSWER_TIMEOUT) -> httpx2.AsyncClient:
        """An HTTP client for this server only, without proxies.

        There is no TLS, so it skips loading certificates, which takes 0.1 s.
        """
        return httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=timeout,
            trust_env=False,
            transport=httpx2.AsyncHTTPTransport(
                uds=self.record.socket if self.record else None,
                verify=False,
                trust_env=False,
                limits=httpx2.Limits(),
            ),
        )

    @property
    def runs(self) -> bool:
        """Whether the server still runs; without a record it counts as running."""
        if self.record is None:
            return True
        try:
            # It held the lock when it was found. To try that again takes as long as waiting for it.
            return recorded() == self.record and self.record.lives
        except (BadSettings, OSError):
            return False

    async def answers(self) -> bool:
        """Whether the server answers a health check."""
        try:
            async with self.client() as client:
                return (await client.get(f"{self.base_url}/healthz")).status_code == 200
        except httpx2.HTTPError:
            return False

    async def facts(self) -> Facts:
        """What the server reports about itself.

        Raises:
            AttachError: it does not answer, refuses our token, or is not a server of this version.
        """
        advice = RESTART if self.record else "Start it, or correct RMI_AGENT_SERVER or its token"
        if self.record is not None:
            check_owner(Path(self.record.socket))
        body = bytearray()
        try:
            async with (
                self.client() as client,
                client.stream("GET", f"{self.base_url}{FACTS_PATH}") as answer,
            ):
                if answer.status_code == 401:
                    raise AttachError(f"The server at {self.url} refuses our token. {advice}.")
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > FACTS_LIMIT:
                        break
            return Facts.model_validate_json(bytes(body[:FACTS_LIMIT]))
        except ValidationError:
            raise AttachError(
                f"What listens at {self.url} is not a server of version {VERSION}. {advice}."
            ) from None
        except httpx2.HTTPError as error:
            why = str(error) or type(error).__name__
            raise AttachError(f"{self.label} does not answer: {why}. {advice}.") from None


def check_owner(path: Path) -> None:
    """Refuse a socket that another user may have put there.

    Raises:
        AttachError: another user owns the socket or its folder, or may change the folder.
    """
    try:
        folder, entry = path.parent.stat(), path.lstat()
    except OSError as error:
        raise AttachError(
            f"The background server's socket {path} can't be used: {error.strerror}. {RESTART}."
        ) from None
    if {folder.st_uid, entry.st_uid} != {os.getuid()}:
        raise AttachError(
            f"The background server's socket {path} belongs to another user. Delete it, then run:"
            f" {STOP}"
        )
    if folder.st_mode & 0o022:
        raise AttachError(
            f"Other users may change {path.parent}, which holds the background server's socket."
            f" {RESTART}."
        )
