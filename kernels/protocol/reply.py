"""What is run on a kernel, and how the run ended: data, and parsing it from messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ..encoding import encodable

Message = dict[str, Any]
PARTS = ("header", "parent_header", "metadata", "content")
Status = Literal["ok", "error", "timeout", "interrupted", "dead"]
State = Literal["kept", "lost"]
NAME_MOST = 200  # max characters of an error's name


@dataclass(frozen=True)
class Script:
    """A file to run as `__main__`: its path and source, and the arguments and stdin it gets."""

    path: Path
    source: bytes
    args: tuple[str, ...] = ()
    stdin: str = ""
    fresh: bool = True  # in a kernel of its own, which changes to the file's folder for good


@dataclass(frozen=True)
class Reply:
    """How a run ended.

    Attributes:
        status: `timeout` and `interrupted` say that we stopped it, however the code reacted.
        state: `lost` if the process was killed or died.
        exit_code: of a script, or of the process if it ended (negative: signal number).
        actions: what was done to stop the run, in order, in words.
        notices: what else the caller should know, as sentences.
    """

    status: Status
    execution_count: int | None = None
    error_name: str | None = None
    exit_code: int | None = None
    state: State = "kept"
    actions: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


def reply_of(
    reply: Message, status: Status | None, actions: list[str], notices: tuple[str, ...] = ()
) -> Reply:
    """Make a `Reply` from the kernel's reply and from what we did to stop the run."""
    content = reply["content"]
    failed = content.get("status") != "ok"
    error, code = (content.get("ename") if failed else None), None
    for payload in payloads(reply):
        if payload.get("source") == "rmi_agent.script":
            error, code = payload.get("error_name"), payload.get("exit_code")
            failed = code != 0
    count = content.get("execution_count")
    return Reply(
        status or ("error" if failed else "ok"),
        execution_count=count if type(count) is int else None,
        error_name=encodable(error[:NAME_MOST]) if isinstance(error, str) else None,
        exit_code=code if type(code) is int else None,
        actions=tuple(actions),
        notices=notices,
    )


def ends_kernel(reply: Message) -> bool:
    """Whether the cell called `exit()`: the process ends after this reply."""
    return any(
        payload.get("source") == "ask_exit" and not payload.get("keepkernel")
        for payload in payloads(reply)
    )


def payloads(reply: Message) -> list[dict[str, Any]]:
    """The payloads of a reply, without malformed ones: user code can put anything there."""
    carried = reply["content"].get("payload", [])
    return [each for each in carried if isinstance(each, dict)] if isinstance(carried, list) else []


def now() -> str:
    """The current time in the format of Jupyter's messages."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
