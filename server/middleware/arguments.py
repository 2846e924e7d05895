"""Reads a tool's arguments as clients send them, or says in one sentence what to send instead.

Models write a list as its JSON text, a number as a text, and null for what they leave out. Knows
the JSON schemas of tools; nothing about what the arguments are for.
"""

from __future__ import annotations

import difflib
import json
from typing import Any

from fastmcp.exceptions import ValidationError as BadArguments
from fastmcp.server.middleware import CallNext, MiddlewareContext
from fastmcp.tools import ToolResult
from mcp_types import CallToolRequestParams
from pydantic import ValidationError

from ...kernels import encodable
from ..plaintext import plain
from ..refusals import Refusal
from .calls import CallMiddleware

LARGEST = 1e300  # of a number that is taken for its text
SHOWN = 60  # max characters quoted of an argument that is refused
KINDS = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": 'a list of strings such as ["a", "2"]',
    "object": 'an object such as {"a": 1}',
}
BOUNDS = {
    "exclusiveMinimum": "greater than",
    "minimum": "at least",
    "exclusiveMaximum": "less than",
    "maximum": "at most",
}
Schema = dict[str, Any]


class Arguments(CallMiddleware):
    """Makes the arguments fit the tool's schema where their meaning is clear; refuses others."""

    def __init__(self) -> None:
        self._schemas: dict[str, Schema] = {}  # by the tool's name

    async def on_call_tool(
        self,
        context: MiddlewareContext[CallToolRequestParams],
        call_next: CallNext[CallToolRequestParams, ToolResult],
    ) -> ToolResult:
        """Call the tool; raises `Refusal` that says what to send."""
        message = context.message
        schema = await self._schema(context)
        if schema is None:  # no such tool: FastMCP says so
            return await call_next(context)
        given = understood(message.name, schema, message.arguments or {})
        message = message.model_copy(update={"arguments": given})
        try:
            return await call_next(context.copy(message=message))
        except BadArguments as error:
            if not isinstance(cause := error.__cause__, ValidationError):
                raise
            raise Refusal(refusal(message.name, schema, given, cause)) from None

    async def _schema(self, context: MiddlewareContext[Any]) -> Schema | None:
        name, ctx = context.message.name, context.fastmcp_context
        if name not in self._schemas and ctx is not None:
            if (tool := await ctx.fastmcp.get_tool(name)) is None:
                return None
            self._schemas[name] = tool.parameters
        return self._schemas.get(name)


def understood(tool: str, schema: Schema, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the tool takes them.

    Raises:
        Refusal: an argument would be misread by the conversions that pydantic makes.
    """
    read = {}
    for name, value in arguments.items():
        about = schema["properties"].get(name)
        if about is None:
            read[name] = value
            continue
        kinds = kinds_of(about)
        blank = isinstance(value, str) and not value.strip() and set(kinds) != {"string"}
        if value is None or (blank and name not in schema.get("required", ())):
            continue  # null and blank are how clients leave an argument out
        value = converted(value, kinds)
        if isinstance(value, bool) and "boolean" not in kinds:  # pydantic would take it for 1
            raise Refusal(f"Error: {tool}: {wrong(name, about, value)}")
        read[name] = value
    return read


def converted(value: Any, kinds: dict[str, Schema]) -> Any:
    """A value in the form that the schema asks for, if its meaning is clear; else unchanged."""
    if "array" in kinds:
        if isinstance(value, str):
            value = from_json(value)
        if isinstance(value, list):
            inner = kinds_of(kinds["array"].get("items", {}))
            return [converted(each, inner) for each in value]
    elif "string" in kinds and type(value) in (int, float) and abs(value) < LARGEST:
        return json.dumps(value)
    return value


def from_json(text: str) -> Any:
    """The list that a text is the JSON of; the text itself if it is not one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, list) else text


def refusal(tool: str, schema: Schema, given: dict[str, Any], error: ValidationError) -> str:
    """What is wrong with a call's arguments, and what to send, in one sentence."""
    known = schema["properties"]
    if unknown := [name for name in given if name not in known]:
        close = [name for name in difflib.get_close_matches(unknown[0], known) if name not in given]
        advice = f"did you mean {close[0]}?" if close else f"it takes {listed(list(known))}."
        return f"Error: {tool} has no argument {quoted(unknown[0])}; {advice}"
    for found in error.errors(include_url=False, include_context=False, include_input=False):
        name = str(found["loc"][0]) if found["loc"] else ""
        if name in known and name in given:
            return f"Error: {tool}: {wrong(name, known[name], given[name])}"
        if name in known:
            what, _, _ = known[name].get("description", "").partition(". ")
            return f"Error: {tool} needs {name}, {kind_of(known[name])}: {what.rstrip('.')}."
    return f"Error: {tool} can't be called with these arguments; it takes {listed(list(known))}."


def wrong(name: str, about: Schema, value: Any) -> str:
    """What an argument must be, and what it was."""
    return f"{name} must be {kind_of(about)}, not {quoted(value)}."


def kinds_of(about: Schema) -> dict[str, Schema]:
    """The types that an argument may have, each with its part of the schema."""
    return {part["type"]: part for part in about.get("anyOf", [about]) if "type" in part}


def kind_of(about: Schema) -> str:
    """What an argument must be, in words."""
    kinds = {kind: part for kind, part in kinds_of(about).items() if kind != "null"}
    words = []
    for kind, part in kinds.items():
        bounds = [f"{word} {part[key]:,}" for key, word in BOUNDS.items() if key in part]
        words.append(" ".join([KINDS.get(kind, kind), " and ".join(bounds)]).strip())
    return " or ".join(words) or "another value"


def quoted(value: Any) -> str:
    """A value as JSON on one line, shortened."""
    try:
        text = encodable(json.dumps(value, ensure_ascii=False)[: 10 * SHOWN])
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists in lists
        return "one too large to show"
    text = " ".join(plain(text).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def listed(names: list[str]) -> str:
    """Names as in "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])) or "none"
