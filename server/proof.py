"""How a server and a client of the same user know each other without showing their token.

The client sends a random number, the server answers with a MAC over it, its own address and a
number of this start. Both then derive the bearer token of this one start. So any program that
listens at the address of a server that has ended learns nothing that is of use anywhere.
Knows tokens and addresses; nothing of what is served.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import Any
from urllib.parse import urlsplit

import httpx2
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

PROOF, FACTS = "/resident/proof", "/resident"
NONCE = re.compile(r"[0-9a-f]{64}")
ANSWER_LIMIT = 100_000  # bytes of an answer from nobody we know


class Stranger(Exception):
    """What listens there is not the server that it should be; the text says why."""


class Answer(BaseModel):
    """What a server answers: the number of this start, and the MAC."""

    start: str
    proof: str


class Facts(BaseModel):
    """What a server tells of itself to who is let in.

    Attributes:
        version: of the package, as it was at the start.
        pid: its process.
        started: when, in seconds since 1970.
        prefix: of the Python environment, whose packages kernels have.
        projects: PYTHON_PROJECTS_DIR.
        notebooks: RMI_AGENT_NOTEBOOKS_DIR.
        settings: the other settings that sessions depend on, as JSON has them.
        busy: sessions in which something runs.
        idle: the other sessions.
    """

    version: str
    pid: int
    started: float
    prefix: str
    projects: str
    notebooks: str
    settings: dict[str, Any]
    busy: int
    idle: int


class Identity:
    """One start of a server, by the token that it shares with its clients.

    Args:
        token: the one that this user's servers have made.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self.start = secrets.token_hex(16)

    @property
    def bearer(self) -> str:
        """What lets in, as long as this start lasts."""
        return bearer_of(self._token, self.start)

    async def prove(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a client's number. The MAC has the address at which the client has come in.

        So an answer that somebody in between has fetched from here is of no use to them.
        """
        nonce = Request(scope).query_params.get("nonce", "")
        response: Response
        if NONCE.fullmatch(nonce):
            host, port = scope["server"]
            proof = proof_of(self._token, nonce, f"{host}:{port}", self.start)
            response = JSONResponse({"start": self.start, "proof": proof})
        else:
            response = JSONResponse(
                {"error": "The nonce is missing or invalid. Send 64 hexadecimal digits."}, 400
            )
        await response(scope, receive, send)


def mac(token: str, *words: str) -> str:
    """A MAC over words, of which none has a NUL."""
    key = hashlib.sha256(token.encode()).digest()
    return hmac.new(key, "\0".join(words).encode(), "sha256").hexdigest()


def proof_of(token: str, nonce: str, address: str, start: str) -> str:
    """What a server answers that knows the token."""
    return mac(token, "resident proof", nonce, address, start)


def bearer_of(token: str, start: str) -> str:
    """The bearer token of one start."""
    return mac(token, "resident bearer", start)


async def bearer_for(client: httpx2.AsyncClient, url: str, token: str) -> str:
    """The bearer token for the server at a base URL, once it has shown that it knows the token.

    Raises:
        Stranger: it has not.
        HTTPError: nobody answers.
    """
    nonce, parts = secrets.token_hex(32), urlsplit(url)
    text = await answer_of(client, f"{url}{PROOF}?nonce={nonce}", {})
    try:
        answer = Answer.model_validate_json(text)
    except ValidationError:
        raise Stranger("it is no server of this version") from None
    expected = proof_of(token, nonce, f"{parts.hostname}:{parts.port}", answer.start)
    if not hmac.compare_digest(expected.encode(), answer.proof.encode()):
        raise Stranger("it does not know the token of your servers")
    return bearer_of(token, answer.start)


async def facts_of(client: httpx2.AsyncClient, url: str, bearer: str) -> Facts:
    """What the server at a base URL tells of itself.

    Raises:
        Stranger: it does not let us in, or is no server of this kind.
        HTTPError: nobody answers.
    """
    text = await answer_of(client, f"{url}{FACTS}", {"Authorization": f"Bearer {bearer}"})
    try:
        return Facts.model_validate_json(text)
    except ValidationError:
        raise Stranger("it is no server of this version") from None


async def answer_of(client: httpx2.AsyncClient, url: str, headers: dict[str, str]) -> bytes:
    """The body of an answer, which may come from anybody.

    Raises:
        Stranger: it is no success, or too large.
        HTTPError: nobody answers.
    """
    async with client.stream("GET", url, headers=headers, follow_redirects=False) as answer:
        if answer.status_code == 401:
            raise Stranger("it asks for another token")
        if answer.status_code != 200:
            raise Stranger(f"it answers {answer.status_code}, as no server of this version does")
        body = bytearray()
        async for part in answer.aiter_bytes():
            body += part
            if len(body) > ANSWER_LIMIT:
                raise Stranger("its answer has no end")
    return bytes(body)
