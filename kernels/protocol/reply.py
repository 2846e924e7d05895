"""How a run ended: data, and parsing it from messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal

from ..encoding import encodable

Message = dict[str, Any]
PARTS = ("header", "parent_header", "metadata", "content")
Status = Literal["ok", "error", "timeout", "interrupted", "dead"]
State = Literal["kept", "lost"]
FAILURES = 8  # max exceptions of one reply
FACT_MOST = 1000  # max characters of a fact about an exception
NAME_MOST = 200  # max characters of an error's name
COMMAND_MOST = 250  # the same of a command in a notice
FAILED_MOST = 2_000  # max characters of the node ids of failing tests
CATEGORY_MOST = 50  # max characters of a category of tests
MOST_CATEGORIES = 20  # pytest has eight; plugins add some
MOST_COMMANDS = 3  # max notices of failed commands


@dataclass(frozen=True)
class Failure:
    """An exception as the kernel describes it; the code may have made all of it up.

    Attributes:
        name: of its class.
        text: its message.
        errno, filename: of an OSError.
        missing: the module or variable that was not found.
        ports: numbers one of which may be the port of an address in use.
    """

    name: str
    text: str = ""
    errno: int = 0
    filename: str = ""
    missing: str = ""
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class PytestResults:
    """The results of pytest's tests as the kernel tells them; the code may have made them up.

    Attributes:
        counts: the number of tests, or of warnings, by pytest's category: `passed`, `failed`, …
        failed: the node ids of failing tests and files, as many as fit.
    """

    counts: dict[str, int]
    failed: tuple[str, ...]


@dataclass(frozen=True)
class Reply:
    """How a run ended.

    Attributes:
        status: `timeout` and `interrupted` say that we stopped it, however the code reacted.
        state: `lost` if the process was killed or died.
        exit_code: of a script, or of the process if it ended (negative: signal number).
        actions: what was done to stop the run, in order, in words.
        notices: what else the caller should know, as sentences.
        failures: the exception that ended the code, and those behind it.
        tests: of a run of pytest.
    """

    status: Status
    execution_count: int | None = None
    error_name: str | None = None
    exit_code: int | None = None
    state: State = "kept"
    actions: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    tests: PytestResults | None = None


def reply_of(
    reply: Message, status: Status | None, actions: list[str], notices: tuple[str, ...] = ()
) -> Reply:
    """Make a `Reply` from the kernel's reply and from what we did to stop the run."""
    content = reply["content"]
    failed = content.get("status") != "ok"
    error, code = (content.get("ename") if failed else None), None
    failures: list[Failure] = []
    tests: PytestResults | None = None
    for payload in payloads(reply):
        if payload.get("source") == "rmi_agent.error":
            failures = failures_of(payload.get("errors"))
        if payload.get("source") == "rmi_agent.tests":
            tests = tests_of(payload)
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
        notices=(*notices, *failed_commands(reply)),
        failures=tuple(failures) if failed else (),
        tests=tests,
    )


def tests_of(payload: Any) -> PytestResults | None:
    """The results that a payload or a record describes, without malformed ones."""
    if not isinstance(payload, dict):
        return None
    counts, failed = payload.get("counts"), payload.get("failed")
    known = {
        encodable(name[:CATEGORY_MOST]): count
        for name, count in (counts.items() if isinstance(counts, dict) else ())
        if type(count) is int and 0 <= count < 2**53
    }
    ids, room = [], FAILED_MOST
    for each in failed if isinstance(failed, list) else ():
        if isinstance(each, str) and (room := room - len(each)) >= 0:
            ids.append(encodable(each))
    return PytestResults(dict(islice(known.items(), MOST_CATEGORIES)), tuple(ids))


def failures_of(errors: Any) -> list[Failure]:
    """The exceptions that a payload describes, without malformed ones."""
    found = []
    for error in errors[:FAILURES] if isinstance(errors, list) else ():
        if not isinstance(error, dict):
            continue
        texts = {
            key: encodable(value[:FACT_MOST])
            for key in ("name", "text", "filename", "missing")
            if isinstance(value := error.get(key), str)
        }
        number, ports = error.get("errno"), error.get("ports")
        found.append(
            Failure(
                texts.pop("name", ""),
                errno=number if type(number) is int else 0,
                ports=tuple(each for each in ports[:FACT_MOST] if type(each) is int)
                if isinstance(ports, list)
                else (),
                **texts,
            )
        )
    return found


def failed_commands(reply: Message) -> list[str]:
    """A notice for each of the first `!commands` of a cell that failed."""
    found = []
    for payload in payloads(reply):
        command, code = payload.get("command"), payload.get("exit_code")
        if payload.get("source") != "rmi_agent.command" or not isinstance(command, str):
            continue
        if type(code) is int:
            found.append(f"`{encodable(command[:COMMAND_MOST])}` exited with status {code}.")
    return found[:MOST_COMMANDS]


def ends_kernel(reply: Message) -> bool:
    """Whether the cell called `exit()`: the process ends after this reply."""
    return any(
        payload.get("source") == "ask_exit" and not payload.get("keepkernel")
        for payload in payloads(reply)
    )


def pages(reply: Message) -> list[Message]:
    """What IPython's pager has to show (`len?`, `%psource`), as messages of displays.

    JupyterLab makes a display of it in the cell, too.
    """
    return [
        {"header": {"msg_type": "display_data"}, "content": {"data": data, "metadata": {}}}
        for payload in payloads(reply)
        if payload.get("source") == "page" and isinstance(data := payload.get("data"), dict)
    ]


def payloads(reply: Message) -> list[dict[str, Any]]:
    """The payloads of a reply, without malformed ones: user code can put anything there."""
    carried = reply["content"].get("payload", [])
    return [each for each in carried if isinstance(each, dict)] if isinstance(carried, list) else []


def now() -> str:
    """The current time in the format of Jupyter's messages."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
