"""What one user has does not exist for another, and nobody takes the other's share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastmcp import Client
from mcp import MCPError
from mcp_types import ElicitResult, InputRequiredResult, ResourceTemplateReference
from rmi_agent.kernels import LOCAL, Config, KernelError, SessionNotFoundError, Sessions

from tests.conftest import cell, launch
from tests.server.conftest import fill
from tests.server.served import ALICE, BOB, INITIALIZE, TEXT, USERS, bearer, served

pytestmark = [pytest.mark.anyio, pytest.mark.security]
UNKNOWN = "AAAAAAAAAAAAAAAA"  # of the form that ids have
SECRET = "alices-own-text"


@dataclass
class Both:
    url: str
    alice: Client[Any]
    bob: Client[Any]
    ids: dict[str, str]


async def asked(_: object, __: object, ___: object, ____: object) -> ElicitResult:
    raise AssertionError("nobody is asked here")


@pytest.fixture(scope="module")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Both]:
    """Alice with an idle, a busy and an ended session, and one that waits for her; and Bob."""
    projects = fill(tmp_path_factory.mktemp("u"))
    with served(projects, RMI_AGENT_TOKENS=USERS, RMI_AGENT_RESPONSE_DEADLINE="1") as server:
        async with (
            Client(f"{server.url}/mcp", auth=ALICE) as alice,
            Client(f"{server.url}/mcp", auth=BOB) as bob,
        ):
            ids = {}
            for state, code in (
                ("idle", f"x = {SECRET!r}; x"),
                ("ended", f"x = {SECRET!r}; x"),
                ("busy", f"print({SECRET!r}, flush=True); import time; time.sleep(600)"),
            ):
                result = await alice.call_tool_mcp("run_cell", {"code": code, "timeout": 600})
                ids[state] = (result.structured_content or {})["session_id"]
            await alice.call_tool_mcp("close_session", {"session_id": ids["ended"]})
            yield Both(server.url, alice, bob, ids)
            await alice.call_tool_mcp("close_session", {"session_id": ids["busy"]})


CALLS: dict[str, dict[str, Any]] = {
    "run_cell": {"code": "x"},
    "run_python": {"file_name": "hello_world.py"},
    "read_output": {},
    "read_output of a cell": {"cell": 1},
    "read_output that waits": {"wait": 1},
    "interrupt_session": {},
    "restart_session": {},
    "fork_session": {},
    "restore_session": {"cell": 1},
    "close_session": {},
}


async def told(client: Client[Any], call: str, session_id: str) -> str:
    """All that a call gives, with the id taken out."""
    arguments = {**CALLS[call], "session_id": session_id}
    result = await client.call_tool_mcp(call.split()[0], arguments)
    return result.model_dump_json().replace(session_id, "ID")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("state", ["idle", "busy", "ended"])
async def test_anothers_session_reads_as_one_that_never_was(
    both: Both, call: str, state: str
) -> None:
    anothers = await told(both.bob, call, both.ids[state])
    assert anothers == await told(both.bob, call, UNKNOWN)
    assert "There is no session" in anothers
    assert SECRET not in anothers


@pytest.mark.parametrize("state", ["idle", "busy", "ended"])
async def test_anothers_notebook_reads_as_one_that_never_was(both: Both, state: str) -> None:
    async def refusal(session_id: str) -> str:
        with pytest.raises(MCPError) as error:
            await both.bob.read_resource(f"notebook://{session_id}")
        return repr(error.value.error.model_dump()).replace(session_id, "ID")

    assert await refusal(both.ids[state]) == await refusal(UNKNOWN)
    if state != "ended":
        contents = await both.alice.read_resource(f"notebook://{both.ids[state]}")
        assert SECRET in contents[0].text  # type: ignore[union-attr]


async def test_nobody_looks_into_anothers_kernel(both: Both) -> None:
    names = ResourceTemplateReference(uri="variable://{session_id}/{name}")
    typed, given = {"name": "name", "value": "x"}, {"session_id": both.ids["idle"]}
    assert "x" in (await both.alice.complete(names, typed, given)).values
    assert (await both.bob.complete(names, typed, given)).values == []
    whole = {"name": "session_id", "value": ""}
    assert both.ids["idle"] in (await both.alice.complete(names, whole)).values
    assert not set((await both.bob.complete(names, whole)).values) & set(both.ids.values())
    told = []
    for session_id in (both.ids["idle"], UNKNOWN):
        with pytest.raises(MCPError) as error:
            await both.bob.read_resource(f"variable://{session_id}/x")
        told.append(repr(error.value.error.model_dump()).replace(session_id, "ID"))
    assert told[0] == told[1]


async def test_several_users_kernels_are_not_joined_on_the_servers_machine(both: Both) -> None:
    told = []
    for client in (both.alice, both.bob):
        with pytest.raises(MCPError) as error:
            await client.read_resource(f"connection-file://{both.ids['idle']}")
        told.append(str(error.value))
    assert "Only the user of the server's machine" in told[0]
    assert "There is no session" in told[1]


async def test_lists_have_ones_own_alone(both: Both) -> None:
    own = await both.bob.call_tool_mcp("run_cell", {"code": "1"})
    mine = (own.structured_content or {})["session_id"]
    shown = (await both.bob.call_tool_mcp("list_sessions", {})).model_dump_json()
    assert mine in shown
    assert not [key for key in both.ids.values() if key in shown]
    hers = (await both.alice.call_tool_mcp("list_sessions", {})).model_dump_json()
    assert mine not in hers
    assert both.ids["busy"] in hers
    everything = [r.model_dump_json() for r in await both.bob.list_resources()]
    assert not [key for key in both.ids.values() if key in "".join(everything)]
    await both.bob.call_tool_mcp("close_session", {"session_id": mine})


async def test_her_own_sessions_are_untouched_by_all_that(both: Both) -> None:
    for call in CALLS:
        await told(both.bob, call, both.ids["idle"])
        await told(both.bob, call, both.ids["busy"])
    key = {"session_id": both.ids["idle"]}
    assert SECRET in repr(await both.alice.call_tool_mcp("run_cell", {"code": "x", **key}))
    running = await both.alice.call_tool_mcp("read_output", {"session_id": both.ids["busy"]})
    assert (running.structured_content or {})["status"] == "running"


async def test_anothers_question_can_not_be_answered(both: Both) -> None:
    era = {"mode": "2026-07-28", "elicitation_handler": asked}
    arguments = {"code": "input('Name? ')", "timeout": 600}
    async with (
        Client(f"{both.url}/mcp", auth=ALICE, **era) as alice,  # type: ignore[arg-type]
        Client(f"{both.url}/mcp", auth=BOB, **era) as bob,  # type: ignore[arg-type]
    ):

        async def answer(client: Client[Any], state: str, text: str) -> Any:
            return await client.session.call_tool(
                "run_cell",
                arguments,
                input_responses={
                    name: ElicitResult(action="accept", content={"value": text})
                    for name in question.input_requests or ()
                },
                request_state=state,
                allow_input_required=True,
            )

        question = await alice.session.call_tool("run_cell", arguments, allow_input_required=True)
        assert isinstance(question, InputRequiredResult)
        assert question.request_state is not None
        refusals = []
        for state in (question.request_state, "never-was", question.request_state[:-4] + "AAAA"):
            with pytest.raises(MCPError) as error:
                await answer(bob, state, "Mallory")
            refusals.append(repr(error.value.error.model_dump()))
        assert len(set(refusals)) == 1
        result = await answer(alice, question.request_state, "Ada")
        assert "'Ada'" in repr(result)
        assert "Mallory" not in repr(result)


@pytest.mark.parametrize("path", ["mcp", "messages/"])
async def test_anothers_connection_reads_as_one_that_never_was(both: Both, path: str) -> None:
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    async with httpx2.AsyncClient(base_url=both.url, headers=TEXT, trust_env=False) as http:
        if path == "mcp":
            first = await http.post("/mcp", json=INITIALIZE, headers=bearer(ALICE))
            hers = first.headers["Mcp-Session-Id"]
            answers = [
                await http.request(
                    method, "/mcp", json=ping, headers={**bearer(BOB), "Mcp-Session-Id": key}
                )
                for method in ("POST", "DELETE")
                for key in (hers, "0" * 32)
            ]
            alive = await http.post(
                "/mcp", json=ping, headers={**bearer(ALICE), "Mcp-Session-Id": hers}
            )
            assert alive.status_code == 200
        else:
            async with http.stream("GET", "/sse", headers=bearer(ALICE)) as stream:
                lines = stream.aiter_lines()  # kept: the stream ends with it
                async for line in lines:
                    if line.startswith("data: "):
                        endpoint = line.removeprefix("data: ")
                        break
                unknown = endpoint.split("=")[0] + "=" + "0" * 32
                answers = [
                    await http.post(url, json=ping, headers=bearer(BOB))
                    for url in (endpoint, unknown)
                ]
                alive = await http.post(endpoint, json=INITIALIZE, headers=bearer(ALICE))
                assert alive.status_code == 202
    assert {(answer.status_code, answer.text) for answer in answers} == {(404, answers[0].text)}


# -- shares


async def test_beyond_their_share_ones_own_idle_sessions_make_room(tmp_path: Path) -> None:
    async with Sessions(
        Config(tmp_path / "n"), launch(tmp_path), warm=0, most=8, room_timeout=0.5, most_each=2
    ) as opened:
        bobs = await opened.open("bob")
        oldest, newest = await opened.open("alice"), await opened.open("alice")
        await cell(oldest, "1")
        await cell(newest, "1")
        third = await opened.open("alice")
        with pytest.raises(SessionNotFoundError, match="RMI_AGENT_SESSIONS_PER_USER"):
            opened.get(oldest.id, "alice")
        assert opened.all("alice") == [newest, third]
        assert opened.all("bob") == [bobs]
        running = [s.submit_cell("import time; time.sleep(600)", 600) for s in (newest, third)]
        with pytest.raises(KernelError, match="All 2 sessions that you may have .* busy"):
            await opened.open("alice")
        assert await opened.open("bob")
        waiting = asyncio.create_task(opened.open("alice"))
        await asyncio.sleep(0)
        running[0].interrupt("is not needed")
        assert await waiting in opened.all("alice")  # in the place of the one that has ended
        assert len(opened.all("alice")) == 2
        assert [await opened.open(LOCAL) for _ in range(3)] == opened.all(LOCAL)


async def test_nobody_is_pushed_out_by_somebody_who_has_more(tmp_path: Path) -> None:
    async with Sessions(
        Config(tmp_path / "n"), launch(tmp_path), warm=0, most=4, room_timeout=3, most_each=3
    ) as opened:
        bobs = await opened.open("bob")
        for _ in range(6):  # one by one, as a program does that never closes any
            await opened.open("alice")
        assert opened.all("bob") == [bobs]
        assert len(opened.all("alice")) == 3
        carols = await opened.open("carol")  # it comes from alice, who has most
        assert (len(opened.all("alice")), opened.all("bob")) == (2, [bobs])
        busy = [s.submit_cell("import time; time.sleep(600)", 600) for s in opened.all("alice")]
        with pytest.raises(KernelError, match="All 4 kernels are busy"):
            await opened.open("alice")  # she has two that are busy, the others one each
        assert (opened.all("bob"), opened.all("carol")) == ([bobs], [carols])
        busy[0].interrupt("is not needed")


async def test_an_opening_that_is_given_up_takes_no_place(tmp_path: Path) -> None:
    async with Sessions(
        Config(tmp_path / "n"), launch(tmp_path), warm=0, most=4, room_timeout=20, most_each=1
    ) as opened:
        for _ in range(3):
            opening = asyncio.create_task(opened.open("alice"))
            await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait({opening})
        session = await opened.open("alice")
        running = session.submit_cell("import time; time.sleep(600)", 600)
        waiting = asyncio.create_task(opened.open("alice"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        running.interrupt("is not needed")
        await running.task
        assert opened.all("alice") == [session]  # nobody waited any more
        await opened.close(session)
        assert await opened.open("alice")


async def test_runs_beyond_their_share_are_refused_with_what_to_do(tmp_path: Path) -> None:
    settings = {"RMI_AGENT_TOKENS": USERS, "RMI_AGENT_RESPONSE_DEADLINE": "0.5"}
    with served(fill(tmp_path), **settings) as server:
        async with (
            Client(f"{server.url}/mcp", auth=ALICE) as alice,
            Client(f"{server.url}/mcp", auth=BOB) as bob,
        ):
            sleep = {"code": "import time; time.sleep(600)", "timeout": 600}
            first = await alice.call_tool_mcp("run_cell", sleep)
            key = {"session_id": (first.structured_content or {})["session_id"]}
            queued = await asyncio.gather(
                *(alice.call_tool_mcp("run_cell", {**sleep, **key}) for _ in range(31))
            )
            assert {(run.structured_content or {})["status"] for run in queued} == {"running"}
            for tool, more in (
                ("run_cell", {"code": "1"}),
                ("run_python", {"file_name": "hello_world.py"}),
            ):
                another = await alice.call_tool_mcp(tool, more)
                assert another.is_error
                assert "32 of your runs are running or queued" in another.content[0].text  # type: ignore[union-attr]
                assert "Try again when one has ended" in another.content[0].text  # type: ignore[union-attr]
            assert not (await bob.call_tool_mcp("run_cell", {"code": "1"})).is_error
            await alice.call_tool_mcp("close_session", key)
            again = await alice.call_tool_mcp("run_cell", {"code": "1"})
            assert json.loads(again.model_dump_json())["structured_content"]["status"] == "ok"
