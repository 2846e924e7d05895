"""Limits on the texts in a message: only what is run, written or typed may be large.

A long name costs every reader again, down to the error that repeats it. The limits are the same
over HTTP and stdio. Knows where MCP's messages and our tools have large texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from fastmcp.exceptions import PromptError, ResourceError
from fastmcp.prompts import PromptResult
from fastmcp.resources import ResourceResult
from fastmcp.server.middleware import CallNext, MiddlewareContext
from fastmcp.tools import ToolResult
from mcp_types import CallToolRequestParams, GetPromptRequestParams, ReadResourceRequestParams

from ..refusals import Refusal
from .calls import CallMiddleware

# All limits are in characters, except ARGUMENTS.
NAME = 1_000  # of a key or a name
TEXT = 10_000  # of any other text
TYPED = 1_000_000  # of a person's answer
CELL = 2_000_000
COMMAND_LINE = 2_000_000  # of all arguments together: about Linux's own limit
ARGUMENTS = 100  # max arguments of a call: each unknown one adds lines to the error
NAMES = (
    "jsonrpc", "id", "method", "name", "uri", "session_id", "file_name", "module", "cwd",
    "notebook", "progressToken", "requestId",
)  # fmt: skip
LIMITS = {**dict.fromkeys(NAMES, NAME), "src": TYPED}  # by key; `src` is a client's icon
LONGER = (
    "Only the arguments code, content and stdin (each a text) and args (a list of texts)"
    " may be longer."
)
WHOLE = {"content", "stdin"}  # arguments that may be as long as a message
ANSWERS = {"inputResponses", "result"}  # keys of a message or its params that hold people's answers


class Lengths(CallMiddleware):
    """Refuses texts that are too long, over any transport."""

    async def on_call_tool(
        self,
        context: MiddlewareContext[CallToolRequestParams],
        call_next: CallNext[CallToolRequestParams, ToolResult],
    ) -> ToolResult:
        """Call the tool; raises `Refusal` that says what is too long."""
        message = context.message
        if found := too_long([("name", message.name)], NAME) or of_call(message.arguments or {}):
            raise Refusal(f"Error: {found}")
        return await call_next(context)

    async def on_read_resource(
        self,
        context: MiddlewareContext[ReadResourceRequestParams],
        call_next: CallNext[ReadResourceRequestParams, ResourceResult],
    ) -> ResourceResult:
        """Read the resource; raises `ResourceError` that says what is too long."""
        if found := too_long([("uri", str(context.message.uri))], NAME):
            raise ResourceError(found)
        return await call_next(context)

    async def on_get_prompt(
        self,
        context: MiddlewareContext[GetPromptRequestParams],
        call_next: CallNext[GetPromptRequestParams, PromptResult],
    ) -> PromptResult:
        """Render the prompt; raises `PromptError` that says what is too long."""
        message = context.message
        texts = {"name": message.name, **(message.arguments or {})}
        if found := too_long(texts.items(), TEXT):
            raise PromptError(found)
        return await call_next(context)


def of_message(message: dict[str, Any]) -> str | None:
    """What in a JSON-RPC message is too long, worded for its sender; None if nothing is."""
    params = message.get("params")
    arguments: dict[str, Any] = {}
    parts = dict(message)
    if isinstance(params, dict):
        del parts["params"]
        if message.get("method") == "tools/call" and isinstance(params.get("arguments"), dict):
            arguments = params["arguments"]
            params = {key: value for key, value in params.items() if key != "arguments"}
    items = [*parts.items(), *(params.items() if isinstance(params, dict) else ())]
    return (
        too_long(texts_of((key, one) for key, one in items if key not in ANSWERS), TEXT)
        or too_long(texts_of((key, one) for key, one in items if key in ANSWERS), TYPED)
        or of_call(arguments)
    )


def of_call(arguments: dict[str, Any]) -> str | None:
    """The same for the arguments of a tool call."""
    if len(arguments) > ARGUMENTS:
        return (
            f"the call has {len(arguments):,} arguments; it may have at most {ARGUMENTS}."
            " Send only those of the tool."
        )
    code, args = arguments.get("code"), arguments.get("args")
    if isinstance(code, str) and len(code) > CELL:
        return (
            f"the code has {len(code):,} characters; a cell may have at most {CELL:,}."
            " Write a file with write_python_file and run that."
        )
    words = args if isinstance(args, list) else []
    if (length := sum(len(one) for one in words if isinstance(one, str))) > COMMAND_LINE:
        return (
            f"args has {length:,} characters; a command line may have at most {COMMAND_LINE:,}."
            " Pass what is long in stdin or in a file."
        )
    others: list[tuple[str, Any]] = []
    for key, value in arguments.items():
        if key == "args" and isinstance(value, list):
            others += ((key, one) for one in value if not isinstance(one, str))
        elif not (isinstance(value, str) and key in WHOLE | {"code"}):
            others.append((key, value))
    return too_long(texts_of(others), TEXT, LONGER)


def too_long(
    texts: Iterable[tuple[str, str]], most: int, advice: str = "Send a shorter one."
) -> str | None:
    """A message about the first text that exceeds its key's limit; None if there is none."""
    for key, text in texts:
        limit = LIMITS.get(key, most)
        if len(text) > limit:
            return f"{key} has {len(text):,} characters; it may have at most {limit:,}. {advice}"
    return None


def texts_of(items: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, str]]:
    """Each string in the values of an object, however nested, with its key."""
    left = list(items)
    while left:
        key, value = left.pop()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += ((key, one) for one in value)
