"""What `rmi-agent` asks for beside a call's arguments, because a person waits at its terminal.

It stands in the request's metadata, where models pay nothing for it. Everything is optional, and
an unknown or invalid wish is none.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastmcp import Context
from pydantic import BaseModel, Field, ValidationError

KEY = "rmi_agent"


class AtTerminal(BaseModel):
    """A client's wishes for one call.

    Attributes:
        stdin: where a program's input comes from once it reads: from a terminal, line by line, or
            from a pipe, in pieces (base64). Empty for what the argument `stdin` has.
        unlimited: whether a run has no time limit unless the call sets one, and all of its output
            is sent as it comes.
        deadline: max seconds until the call returns, if its run goes on; at a question, it returns
            at once, and `read_output` asks.
        stop: how `interrupt_session` stops a run: `gently`, by one interrupt that the code may take
            its time for; `kill`, by ending the kernel. Empty for the usual steps.
        cell: the run that it stops; None for the current one.
        checkpoint: whether a cell gets a checkpoint; it runs without if none can be kept.
    """

    stdin: Literal["", "terminal", "pipe"] = ""
    unlimited: bool = False
    deadline: Annotated[float | None, Field(gt=0)] = None
    stop: Literal["", "gently", "kill"] = ""
    cell: int | None = None
    checkpoint: Literal["", "if possible"] = ""

    def limit(self, timeout: float | None) -> float | None:
        """The time limit of a run; 0 is none, and None is that of the settings."""
        return 0 if timeout is None and self.unlimited else timeout

    def within(self, seconds: float) -> float:
        """The deadline of the call; `seconds` is that of the settings."""
        return seconds if self.deadline is None else min(seconds, self.deadline)


def at_terminal(ctx: Context) -> AtTerminal:
    """The wishes of the call's client."""
    request = ctx.request_context
    wishes = (request.meta or {}).get(KEY) if request is not None else None
    if not isinstance(wishes, dict):
        return AtTerminal()
    try:
        return AtTerminal.model_validate(wishes)
    except ValidationError:
        return AtTerminal()
