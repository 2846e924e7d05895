"""An MCP client for a command's own server, in place of FastMCP's, which takes a second to import.

It speaks only the protocol version that a server of the same package surely has, in which each call
is one request with all that it needs. Knows requests and answers; nothing about how they travel.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol, Self

from .errors import Refused, RequestError

if TYPE_CHECKING:
    from mcp_types import Tool

Json = dict[str, Any]
OnProgress = Callable[[float, float | None, str | None], Awaitable[None]]
OnQuestion = Callable[[str, bool], Awaitable[str | None]]  # (question, secret) → answer

PROTOCOL = "2026-07-28"
META = "io.modelcontextprotocol/"  # begins the keys of what each request says of its client
RETRY = 0.1  # seconds until a call goes on whose server asked for that and for nothing else


class Carrier(Protocol):
    """Carries requests to one server."""

    async def open(self) -> None:
        """Connect to the server."""

    async def close(self) -> None:
        """Let go of the server. Idempotent."""

    def exchange(self, request: Json) -> AsyncGenerator[Json]:
        """Send a request; what the server sends until its answer, which is the last."""


@dataclass(frozen=True)
class Block:
    """A part of a result's content, or of a resource's, with the fields that commands read."""

    type: str
    text: str
    data: str
    mime_type: str


@dataclass(frozen=True)
class ToolResult:
    """A tool's result, with the names of MCP's `CallToolResult`."""

    content: list[Block]
    structured_content: Json | None
    is_error: bool
    meta: Json | None


class DirectClient:
    """A client with those methods of FastMCP's that commands need.

    Args:
        carrier: carries the requests.
        on_question: as for `RmiMcpClient`.
    """

    instructions = None  # what a server tells models; commands have no model

    def __init__(self, carrier: Carrier, on_question: OnQuestion | None) -> None:
        self._carrier, self._on_question = carrier, on_question
        self._numbers = itertools.count(1)
        self._about: Json = {
            f"{META}protocolVersion": PROTOCOL,
            f"{META}clientInfo": {
                "name": "rmi-agent",
                "version": version("rmi-agent-mcp-server"),
            },
            f"{META}clientCapabilities": {"elicitation": {"form": {}}} if on_question else {},
        }

    async def __aenter__(self) -> Self:
        await self._carrier.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._carrier.close()

    async def call_tool_mcp(
        self,
        *,
        name: str,
        arguments: Json,
        progress_handler: OnProgress | None = None,
        meta: Json | None = None,
    ) -> ToolResult:
        """Call a tool, answering the questions of its code."""
        given: Json = {"name": name, "arguments": arguments, "_meta": meta or {}}
        answers: Json = {}
        while True:
            result = await self._request("tools/call", {**given, **answers}, progress_handler)
            if result.get("resultType") != "input_required":
                content = [block(each) for each in result.get("content", ())]
                facts, meta = result.get("structuredContent"), result.get("_meta")
                return ToolResult(content, facts, bool(result.get("isError")), meta)
            asked = result.get("inputRequests") or {}
            answers = {"requestState": result.get("requestState")}
            if asked:
                answers["inputResponses"] = {k: await self._answer(asked[k]) for k in asked}
            else:
                await asyncio.sleep(RETRY)

    async def read_resource(self, uri: str) -> list[Block]:
        """The contents of a resource."""
        result = await self._request("resources/read", {"uri": uri})
        return [block(each) for each in result["contents"]]

    async def list_tools(self) -> list[Tool]:
        """The server's tools."""
        from mcp_types import Tool  # lazy: takes long

        found: list[Tool] = []
        cursor: Json = {}
        while True:
            result = await self._request("tools/list", cursor)
            found += [Tool.model_validate(each) for each in result["tools"]]
            if not result.get("nextCursor"):
                return found
            cursor = {"cursor": result["nextCursor"]}

    async def _request(
        self, method: str, params: Json, on_progress: OnProgress | None = None
    ) -> Json:
        """Send a request; returns its result.

        Raises:
            RequestError: the server can't handle it.
            OSError: the connection ended before the answer.
        """
        number = next(self._numbers)
        about = {**self._about, **({"progressToken": number} if on_progress else {})}
        request: Json = {"jsonrpc": "2.0", "id": number, "method": method}
        request["params"] = {**params, "_meta": {**params.get("_meta", {}), **about}}
        async with contextlib.aclosing(self._carrier.exchange(request)) as answers:
            async for answer in answers:
                if "error" in answer:
                    raise RequestError(str(answer["error"].get("message")))
                if "result" in answer:
                    return dict(answer["result"])
                if answer.get("method") == "notifications/progress" and on_progress is not None:
                    told = answer["params"]
                    await on_progress(told["progress"], told.get("total"), told.get("message"))
        raise ConnectionError("the server has ended")

    async def _answer(self, question: Json) -> Json:
        """The person's answer to a question of the code."""
        params = question["params"]
        schema = params.get("requestedSchema", {})
        secret = bool(schema.get("properties", {}).get("value", {}).get("writeOnly"))
        assert self._on_question is not None  # else the server does not ask
        answer = await self._on_question(params["message"], secret)
        if answer is None:
            return {"action": "decline"}
        return {"action": "accept", "content": {"value": answer}}


def as_json(message: Json) -> bytes:
    """A message on one line.

    Raises:
        Refused: it is not all text; servers would never answer it.
    """
    try:
        return json.dumps(message, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        wrong = ascii(error.object[error.start : error.end][:10])
        raise Refused(f"{wrong} can't be sent: it is no text. Was it read as UTF-8?") from None


def block(given: Json) -> Block:
    """A part of a content from its JSON."""
    return Block(*(given.get(name, "") for name in ("type", "text", "data", "mimeType")))
