"""Puts a cell's questions (`input()`, `getpass()`) to the person in front of the client.

Older clients are asked during the tool call (elicitation). On MCP 2026-07-28 the call
itself ends with the question, and the client calls again with the answer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastmcp import Context
from fastmcp.tools import ToolResult
from fastmcp.tools.base import InputRequiredToolResult
from mcp import MCPError
from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel

from ..plaintext import plain

if TYPE_CHECKING:
    from ...kernels import Execution, Question

ROUNDS = 8  # max questions per call; clients give up after ten, so we hand the run over first
UNSUPPORTED = (
    "input() can't ask the user: this client does not support elicitation. Put the value into the"
    " code, or write a file and pass stdin to run_python."
)
DECLINED = "the user was asked and did not answer"
KEY = "answer"


class ElicitationState(BaseModel):
    """State that the client sends back with the answer; FastMCP seals it in between."""

    session_id: str
    cell: int
    number: int
    round: int


def can_ask(ctx: Context) -> bool:
    """Whether the client can show forms to a person."""
    capabilities = ctx.session.client_capabilities
    elicitation = capabilities.elicitation if capabilities is not None else None
    # Before modes existed, an empty capability meant forms.
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def elicitation_state(ctx: Context) -> ElicitationState | None:
    """The state this call continues from if its client was asked a question, else None."""
    state = ctx.request_state
    return ElicitationState.model_validate_json(state) if state else None


def take_answer(execution: Execution, before: ElicitationState, ctx: Context) -> None:
    """Pass the client's answer on to the run that asked."""
    question = execution.question
    given = (ctx.input_responses or {}).get(KEY)
    if question is not None and execution.asked == before.number:
        settle(question, given if isinstance(given, ElicitResult) else None)


async def ask(execution: Execution, ctx: Context, seconds: float) -> ToolResult | None:
    """Put a run's open question, if any, to the person.

    Returns:
        The result the call must end with so that its client asks, or None if the run continues
        or nobody answered within `seconds`.
    """
    question = execution.question
    if question is None:
        return None
    if not can_ask(ctx):
        question.refuse(UNSUPPORTED)
        return None
    request = ctx.request_context
    if request is not None and request.protocol_version in MODERN_PROTOCOL_VERSIONS:
        return question_result(execution, question, elicitation_state(ctx))
    form = form_of(question)
    elicitation = asyncio.create_task(
        ctx.session.elicit_form(form.message, form.requested_schema, ctx.request_id)
    )
    try:
        events: list[asyncio.Future[Any]] = [elicitation, execution.task]
        await asyncio.wait(events, timeout=seconds, return_when="FIRST_COMPLETED")
        if elicitation.done():
            settle(question, elicitation.result())
    except MCPError:
        question.refuse(UNSUPPORTED)
    finally:
        elicitation.cancel()
        await asyncio.wait({elicitation})
    return None


def is_out_of_questions(ctx: Context) -> bool:
    """Whether this call has used up its questions."""
    before = elicitation_state(ctx)
    return before is not None and before.round >= ROUNDS


def question_result(
    execution: Execution, question: Question, before: ElicitationState | None
) -> ToolResult:
    """A tool result that makes the client ask the question."""
    state = ElicitationState(
        session_id=execution.session_id,
        cell=execution.number,
        number=execution.asked,
        round=before.round + 1 if before is not None else 1,
    )
    return InputRequiredToolResult(
        InputRequiredResult(
            input_requests={KEY: ElicitRequest(params=form_of(question))},
            request_state=state.model_dump_json(),
        )
    )


def form_of(question: Question) -> ElicitRequestFormParams:
    """A question as a one-field form that says who is asking, since code may ask anything."""
    prompt = plain(question.prompt)
    field = {"type": "string", "title": "Password (not recorded)" if question.secret else "Answer"}
    schema = {
        "type": "object",
        "properties": {"value": {**field, "writeOnly": question.secret}},
        "required": ["value"],
    }
    return ElicitRequestFormParams(
        message=f"The running Python code asks: {prompt or '(a line of input)'}",
        requested_schema=schema,
    )


def settle(question: Question, given: ElicitResult | None) -> None:
    """Answer the question from the form's result, or refuse it if the person gave no answer."""
    if given is not None and given.action == "accept" and given.content:
        question.answer(str(given.content.get("value", "")))
    else:
        question.refuse(DECLINED)
