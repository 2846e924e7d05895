"""`input()` in a cell: the question reaches the person, or the cell is told that it can't."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from mcp_types import ElicitResult, InputRequiredResult
from rmi_agent.server import App, load

from tests.server.conftest import fill, http_server, token

pytestmark = pytest.mark.anyio
ERAS = pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])


@pytest.fixture(scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    patch = pytest.MonkeyPatch()
    patch.delenv("PYTEST_CURRENT_TEST", raising=False)
    app = App(load(python_projects_dir=fill(tmp_path_factory.mktemp("p")), response_deadline=2.0))
    async with Client(app.mcp):  # the server runs as long as somebody is connected
        yield app


class Person:
    """Answers what is asked, in order; None declines."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.secret: list[bool] = []

    async def __call__(self, message: str, _: object, params: Any, __: object) -> ElicitResult:
        self.asked.append(message)
        self.secret.append(params.requested_schema["properties"]["value"]["writeOnly"])
        answer = self.answers.pop(0)
        if answer is None:
            return ElicitResult(action="decline")
        return ElicitResult(action="accept", content={"value": answer})


async def call(client: Client[Any], tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool_mcp(tool, arguments)
    assert not result.is_error, result.content
    return {**(result.structured_content or {}), "text": result.content[0].text}


@ERAS
async def test_an_answer_reaches_the_cell_and_shows_in_its_output(app: App, mode: str) -> None:
    person = Person("Ada", "36")
    async with Client(app.mcp, mode=mode, elicitation_handler=person) as client:
        code = "name = input('Name? ')\nage = int(input('Age? '))\nname, age"
        result = await call(client, "run_cell", code=code)
    assert result["text"].startswith("Name? Ada\nAge? 36\n('Ada', 36)\n")
    assert person.asked == [
        "The running Python code asks: Name? ",
        "The running Python code asks: Age? ",
    ]


@ERAS
async def test_a_password_is_never_recorded_or_logged(
    app: App, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    person = Person("s3same-open")
    async with Client(app.mcp, mode=mode, elicitation_handler=person) as client:
        code = "import getpass\nword = getpass.getpass('Word: ')\nlen(word)"
        result = await call(client, "run_cell", code=code)
    assert result["text"].startswith("Word: ········\n11\n")
    assert person.secret == [True]
    assert "s3same-open" not in Path(result["notebook"]).read_text("utf-8")
    ours = [record for record in caplog.records if record.name.startswith("rmi_agent")]
    assert not any("s3same-open" in record.getMessage() for record in ours)


@ERAS
async def test_a_person_who_declines_is_an_eof_error(app: App, mode: str) -> None:
    async with Client(app.mcp, mode=mode, elicitation_handler=Person(None)) as client:
        result = await call(client, "run_cell", code="input('Name? ')")
        assert (result["status"], result["error_name"]) == ("error", "EOFError")
        assert "the user was asked and did not answer" in result["text"]
        after = await call(client, "run_cell", code="1 + 1", session_id=result["session_id"])
        assert after["text"].startswith("2\n")


@ERAS
async def test_a_client_that_shows_no_questions_gets_an_eof_error_with_a_hint(
    app: App, mode: str
) -> None:
    async with Client(app.mcp, mode=mode) as client:
        for code in ("input('Name? ')", "import getpass; getpass.getpass()"):
            result = await call(client, "run_cell", code=code)
            assert (result["status"], result["error_name"]) == ("error", "EOFError")
            assert "Put the value into the code" in result["text"]


@pytest.mark.slow
@ERAS
async def test_a_question_that_nobody_answers_ends_with_the_timeout(app: App, mode: str) -> None:
    async def nobody(*_: object) -> ElicitResult:
        await asyncio.sleep(2.5 if mode != "legacy" else 60)
        return ElicitResult(action="accept", content={"value": "too late"})

    async with Client(app.mcp, mode=mode, elicitation_handler=nobody) as client:
        opened = await call(client, "run_cell", code="x = 1")
        key = {"session_id": opened["session_id"]}
        result = await call(client, "run_cell", code="x = input()", timeout=1, **key)
        if result["status"] == "running":  # the deadline of the call was sooner than the end
            result = await call(client, "read_output", **key, wait=2)
        assert (result["status"], result["state"]) == ("timeout", "kept")
        assert (await call(client, "run_cell", code="x", **key))["text"].startswith("1\n")


@pytest.mark.slow
@ERAS
async def test_a_question_of_a_run_that_was_handed_over_is_asked_by_read_output(
    app: App, mode: str
) -> None:
    code = "import time; time.sleep(2.5); input('Late? ')"
    async with Client(app.mcp, mode=mode, elicitation_handler=Person("yes")) as client:
        given = await call(client, "run_cell", code=code)
        assert given["status"] == "running"
        key = {"session_id": given["session_id"], "cell": given["cell"]}
        await asyncio.sleep(1)
        looked = await call(client, "read_output", **key)
        assert "The run is waiting for input: 'Late? '" in looked["text"]
        result = await call(client, "read_output", **key, wait=20)
        assert result["text"].startswith("Late? yes\n'yes'\n")


@pytest.mark.slow
async def test_a_modern_call_ends_with_its_question_and_goes_on_with_the_answer(app: App) -> None:
    person = Person()
    async with Client(app.mcp, mode="2026-07-28", elicitation_handler=person) as client:
        code = "[input() for _ in range(12)]"
        arguments: dict[str, Any] = {"code": code}
        first = await client.session.call_tool("run_cell", arguments, allow_input_required=True)
        rounds = 0
        result: Any = first
        while isinstance(result, InputRequiredResult):
            rounds += 1
            result = await client.session.call_tool(
                "run_cell",
                arguments,
                input_responses={
                    name: ElicitResult(action="accept", content={"value": "a"})
                    for name in result.input_requests or ()
                },
                request_state=result.request_state,
                allow_input_required=True,
            )
        # A client gives up after ten rounds: before that the run is handed over.
        assert (rounds, result.structured_content["status"]) == (8, "running")
        key = {"session_id": result.structured_content["session_id"]}
        person.answers = ["b"] * 4
        rest = await call(client, "read_output", **key, wait=20)
        assert "".join(re.findall(r"'(.)'", rest["text"].split("[session_id")[0])) == "aaaaaaaabbbb"


@pytest.mark.slow
async def test_questions_travel_over_both_http_transports(tmp_path: Path) -> None:
    with http_server(fill(tmp_path)) as (url, _):
        for path, mode in (("mcp", "auto"), ("mcp", "legacy"), ("sse", "legacy")):
            person = Person("Ada")
            async with Client(
                f"{url}/{path}", auth=token(), mode=mode, elicitation_handler=person
            ) as client:
                result = await call(client, "run_cell", code="input('Name? ')")
                assert result["text"].startswith("Name? Ada\n'Ada'\n")
