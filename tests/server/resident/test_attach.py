"""A process on stdio that hands all to the background server, and what becomes of it when that goes."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from mcp import MCPError
from mcp_types import ElicitResult, ResourceTemplateReference
from rmi_agent.server import App, Settings, load
from rmi_agent.server.commands.resident import inspect_server
from rmi_agent.server.commands.stdio import resident_proxy
from rmi_agent.server.errors import AttachError, BadSettings
from rmi_agent.server.resident import Facts, Record, check, discovery, lease, publish
from rmi_agent.server.resident import record as resident
from rmi_agent.server.resident.discovery import check_version
from rmi_agent.server.state_dir import PACKAGE, VERSION

from tests.processes import still_running
from tests.server.resident.residents import User, user
from tests.server.resident.test_record import POSIX, wait_for

pytestmark = pytest.mark.anyio
ERAS = pytest.mark.parametrize("mode", ["legacy", "auto"])
BIG = """
import base64, os
from IPython.display import Image
print("drawn")
Image(base64.b64decode({picture!r}))
"""


async def call(client: Client[Any], tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool_mcp(tool, arguments)
    assert not result.is_error, result.content
    return {**(result.structured_content or {}), "text": result.content[0].text}


async def error(client: Client[Any], tool: str, **arguments: Any) -> str:
    result = await client.call_tool_mcp(tool, arguments)
    assert result.is_error
    return str(result.content[0].text)


# -- what is compared


def facts_of(given: Settings, **other: Any) -> Facts:
    own = Facts(
        version=VERSION,
        pid=7,
        started=0.0,
        prefix=sys.prefix,
        projects=str(given.projects),
        notebooks=str(given.notebooks),
        settings=given.shared(),
        busy=0,
        idle=0,
    )
    return own.model_copy(update=other)


def test_a_server_that_does_the_same_is_taken(tmp_path: Path) -> None:
    settings = load(python_projects_dir=tmp_path, kernel_max=3)
    check(settings, "auto", facts_of(settings))
    check(settings, "always", facts_of(settings))


def noise(side: int) -> bytes:
    """A PNG of random pixels, which nothing compresses."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", check)

    rows = b"".join(b"\0" + os.urandom(3 * side) for _ in range(side))
    head = struct.pack("!IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"projects": "/elsewhere"}, "PYTHON_PROJECTS_DIR is /elsewhere there, and "),
        ({"notebooks": "/elsewhere"}, "RMI_AGENT_NOTEBOOKS_DIR is /elsewhere there, and "),
        ({"prefix": "/another/venv"}, "the Python environment is /another/venv there"),
        ({"settings": {"kernel_max": 4}}, "RMI_AGENT_KERNEL_MAX is 4 there, and 3 here."),
        ({"settings": {}}, "RMI_AGENT_KERNEL_MAX is None there, and 3 here."),
    ],
)
def test_a_server_that_does_something_else_is_not(
    tmp_path: Path, other: dict[str, Any], said: str
) -> None:
    settings = load(python_projects_dir=tmp_path, kernel_max=3)
    with pytest.raises(AttachError) as refused:
        check(settings, "auto", facts_of(settings, **other))
    assert said in str(refused.value)
    assert "run rmi-agent stop" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_with_always_only_the_folders_that_are_set_here_count(tmp_path: Path) -> None:
    settings = load()
    check(settings, "always", facts_of(settings, projects="/a", notebooks="/b"))
    with pytest.raises(AttachError):
        check(settings, "auto", facts_of(settings, projects="/a", notebooks="/b"))
    settings = load(notebooks_dir=tmp_path)
    with pytest.raises(AttachError, match="RMI_AGENT_NOTEBOOKS_DIR is /b there"):
        check(settings, "always", facts_of(settings, notebooks="/b"))


def test_of_two_versions_the_older_one_is_named_to_be_restarted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_version(VERSION, 7)
    with pytest.raises(AttachError) as older_server:
        check_version("0.0.9", 7)
    assert f"(process 7) is version 0.0.9, and this process {VERSION}." in str(older_server.value)
    assert "Restart the background server: rmi-agent stop, then" in str(older_server.value)
    monkeypatch.setattr(discovery, "version", lambda _: "9.9.9")  # installed since we were started
    with pytest.raises(AttachError, match="Restart this application: it was started before"):
        check_version("9.9.9", 7)
    assert version(PACKAGE) == VERSION


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("http://localhost:8000/mcp", "http://127.0.0.1:8000"),
        ("http://[::1]:8000/mcp", "http://[::1]:8000"),
        ("", None),
    ],
)
def test_a_server_of_this_machine_can_be_named(given: str, base: str | None) -> None:
    assert load(rmi_agent_server=given).rmi_agent_server == base


@pytest.mark.parametrize(
    "given",
    [
        "127.0.0.1:8000",
        "https://127.0.0.1:8000",
        "http://127.0.0.1",
        "http://192.168.1.2:8000",
        "http://127.0.0.1.evil.example:8000",
        "http://localhost@evil.example:8000",
        "http://127.0.0.1:8000/mcp?x",
        "http://0.0.0.0:8000",
    ],
)
def test_a_server_elsewhere_can_not(given: str) -> None:
    with pytest.raises(BadSettings, match=r"^RMI_AGENT_SERVER: .* write http://127\.0\.0\.1:PORT"):
        load(rmi_agent_server=given)


# -- the real thing


@pytest.fixture(scope="module")
def someone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """A user whose background server runs, and whose state folder is too deep for its socket."""
    with user(tmp_path_factory.mktemp("u") / ("deep" * 25)) as one:
        one.start(RMI_AGENT_RESPONSE_DEADLINE="5")
        yield one


async def describe(client: Client[Any]) -> dict[str, Any]:
    """All that a server says of itself."""
    assert client.server_info is not None
    assert client.server_capabilities is not None
    return {
        "server": client.server_info.model_dump(),
        "instructions": client.instructions,
        "capabilities": client.server_capabilities.model_dump(),
        "tools": [one.model_dump() for one in await client.list_tools()],
        "resources": [one.model_dump() for one in await client.list_resources()],
        "templates": [one.model_dump() for one in await client.list_resource_templates()],
        "prompts": [one.model_dump() for one in await client.list_prompts()],
    }


class Person:
    """Answers what is asked."""

    async def __call__(self, message: str, _: object, params: Any, __: object) -> ElicitResult:
        return ElicitResult(action="accept", content={"value": message.rpartition(" ")[2]})


@POSIX
@pytest.mark.slow
@ERAS
async def test_attached_is_as_if_direct(someone: User, mode: str) -> None:
    projects = someone.folder / "python_projects"
    direct = App(load(python_projects_dir=projects, response_deadline=5.0, kernel_pool=0))
    async with Client(direct.mcp, mode=mode) as client:
        expected = await describe(client)
    with_person = someone.client(mode=mode, elicitation_handler=Person())
    async with with_person as client:
        assert await describe(client) == expected
        assert mode != "legacy" or await client.ping()
        first = await call(client, "run_cell", code="alpha = 40")
        session = first["session_id"]

        # Live output of two calls at once, each to its own caller.
        heard: dict[str, str] = {"a": "", "b": ""}

        async def listen(name: str, session_id: str | None) -> str:
            async def progress(_: float, __: float | None, message: str | None) -> None:
                heard[name] += message or ""

            code = (
                f"import time\nfor n in range(3): print('{name}', n, flush=True); time.sleep(0.4)"
            )
            arguments = {"code": code, **({"session_id": session_id} if session_id else {})}
            result = await client.call_tool_mcp("run_cell", arguments, progress_handler=progress)
            return str(result.structured_content["session_id"])  # type: ignore[index]

        await asyncio.gather(listen("a", session), listen("b", None))
        for name, text in heard.items():
            assert set(text.split()) >= {name, "0", "1"}
            assert not set(text) & ({"a", "b"} - {name})

        # Questions, large pictures, completions, resources, prompts, errors.
        asked = await call(client, "run_cell", code="input('say alpha')", session_id=session)
        assert "'alpha'" in asked["text"]
        picture = base64.b64encode(noise(400)).decode()
        result = await client.call_tool_mcp(
            "run_cell", {"code": BIG.format(picture=picture), "session_id": session}
        )
        assert [part.type for part in result.content] == ["text", "image"]
        assert result.content[1].data == picture
        reference = ResourceTemplateReference(
            type="ref/resource", uri="variable://{session_id}/{name}"
        )
        found = await client.complete(
            reference, {"name": "name", "value": "alp"}, {"session_id": session}
        )
        assert "alpha" in found.values
        [notebook] = await client.read_resource(f"notebook://{session}")
        assert "alpha = 40" in notebook.text
        prompt = await client.get_prompt("fix_script", {"file_name": "hello_world.py"})
        assert "hello_world.py" in prompt.messages[0].content.text
        assert "There is no session 'x'" in await error(
            client, "run_cell", code="1", session_id="x"
        )
        ran = await call(client, "run_python", file_name="hello_world.py")
        assert (ran["exit_code"], ran["status"]) == (0, "ok")

        # A call that is cancelled stops its run.
        slow = "import time; print('go', flush=True); time.sleep(60)"
        begun = asyncio.Event()

        async def began(*_: object) -> None:
            begun.set()

        running = asyncio.create_task(
            client.call_tool_mcp(
                "run_cell", {"code": slow, "session_id": session}, progress_handler=began
            )
        )
        await asyncio.wait_for(begun.wait(), 20)
        running.cancel()
        await asyncio.wait({running})
        after = await call(client, "run_cell", code="alpha + 2", session_id=session)
        assert after["text"].startswith("42\n")
        cut = await call(client, "read_output", session_id=session, cell=after["cell"] - 1)
        assert (cut["status"], cut["state"]) == ("interrupted", "kept")


@POSIX
@pytest.mark.slow
async def test_a_restarted_host_finds_its_sessions_by_their_ids(
    someone: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with someone.client("--log-level", "info") as host:
        session = (await call(host, "run_cell", code="kept = 6 * 7"))["session_id"]
        # Nobody can be asked: the client has said so, and the server is told.
        alone = await call(host, "run_cell", code="input()", session_id=session)
        assert "this client does not support elicitation" in alone["text"]
    record = someone.record
    assert f"at {record['url']} (process {record['pid']}) handles all requests" in someone.stderr
    # Now by its address, for which it needs no token, and though there has to be one.
    named = {"RMI_AGENT_SERVER": f"{record['url']}/mcp", "RMI_AGENT_ATTACH": "always"}
    async with someone.client(settings=named) as host:
        listed = await call(host, "list_sessions")
        assert session in [one["session_id"] for one in listed["sessions"]]
        assert (await call(host, "run_cell", code="kept", session_id=session))["text"][:2] == "42"
    # A server with other folders is left alone.
    monkeypatch.setenv("XDG_STATE_HOME", someone.env["XDG_STATE_HOME"])
    folders = {
        "python_projects_dir": someone.folder / "python_projects",
        "notebooks_dir": someone.folder / "elsewhere",
    }
    assert await resident_proxy(load(**folders)) is None
    assert f"RMI_AGENT_NOTEBOOKS_DIR is {someone.folder / 'notebooks'} there" in caplog.text
    with pytest.raises(
        BadSettings, match="^RMI_AGENT_ATTACH: The background server was started differently: "
    ):
        await resident_proxy(load(**folders, attach="always"))


@POSIX
@pytest.mark.slow
async def test_a_server_that_was_killed_is_told_of_and_the_next_one_is_found_or_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with user(tmp_path) as someone:
        monkeypatch.delenv("PYTEST_CURRENT_TEST")
        for name in (
            "XDG_STATE_HOME",
            "PYTHON_PROJECTS_DIR",
            "RMI_AGENT_KERNEL_POOL",
            "RMI_AGENT_KERNEL_PRELOAD",
        ):
            monkeypatch.setenv(name, someone.env[name])
        someone.start()
        async with handed(load()) as waits:
            # Killed while a call goes on.
            session = (await call(waits, "run_cell", code="x = 1"))["session_id"]
            begun = asyncio.Event()

            async def began(*_: object) -> None:
                begun.set()

            code = "import time; print('go', flush=True); time.sleep(60)"
            running = asyncio.create_task(
                waits.call_tool_mcp("run_cell", {"code": code}, progress_handler=began)
            )
            await asyncio.wait_for(begun.wait(), 20)
            first = someone.server
            first.kill()
            lost = (await asyncio.wait_for(running, 10)).content[0].text
            assert f"(process {first.pid}) has ended. The call may have been carried out" in lost
            assert "To continue, start it: rmi-agent start." in lost

            # While there is none.
            told = await error(waits, "run_cell", code="1")
            assert told.startswith("Nothing was run. No background server runs. Start it: ")
            assert told.endswith("it then runs code by itself, without that server.")
            with pytest.raises(MCPError, match=r"Nothing was run\. No background server runs\."):
                await waits.list_tools()
            lines, exit_code = inspect_server()
            assert exit_code == 3
            assert f"(process {first.pid}) crashed or was killed" in lines[0]

            # One of another version takes its place: nothing is said to it.
            with of_another_version():
                told = await error(waits, "run_cell", code="1")
                assert f"is version 0.0.9, and this process {VERSION}. Restart the" in told
                assert told.endswith("their notebooks stay.")

            # One is started on demand, and the one that waits finds it, too.
            async with handed(load(attach="always")) as starts:
                second = someone.server
                assert (await call(starts, "run_cell", code="6 * 7"))["text"][:2] == "42"
                assert (await call(waits, "run_cell", code="6 * 7"))["text"][:2] == "42"
                assert f"There is no session '{session}'" in await error(
                    waits, "run_cell", code="x", session_id=session
                )
                second.kill()
                assert still_running([second], 10) == []
                assert (await call(starts, "list_sessions"))["sessions"] == []
                assert someone.server != second


@asynccontextmanager
async def handed(settings: Settings) -> AsyncIterator[Client[Any]]:
    """A connection to what hands all on, in this process."""
    attached = await resident_proxy(settings)
    assert attached is not None
    async with Client(attached.mcp, mode="legacy") as client:
        yield client
    await attached.aclose()


@contextmanager
def of_another_version() -> Iterator[None]:
    """A background server of another version, at whose address nobody listens."""
    with lease():
        born = resident.born(os.getpid()) or 0.0
        publish(Record(os.getpid(), born, "0.0.9", "http://127.0.0.1:9", None))
        yield


async def test_one_of_another_version_is_left_alone_or_has_to_be_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with of_another_version():
        assert await resident_proxy(load()) is None
        assert f"is version 0.0.9, and this process {VERSION}. Restart the" in caplog.text
        assert "serving on its own instead" in caplog.text
        with pytest.raises(
            BadSettings, match="^RMI_AGENT_ATTACH: .* is version 0.0.9, and this process"
        ):
            await resident_proxy(load(attach="always"))
        assert await resident_proxy(load(attach="never")) is None


async def test_a_named_server_that_does_not_answer_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    named = {"rmi_agent_server": "http://127.0.0.1:9"}
    assert await resident_proxy(load(**named)) is None
    assert "RMI_AGENT_SERVER: no token is set for http://127.0.0.1:9." in caplog.text
    with pytest.raises(BadSettings, match="at http://127.0.0.1:9 does not answer"):
        await resident_proxy(load(**named, rmi_agent_token="x" * 16, attach="always"))


@POSIX
@pytest.mark.slow
async def test_a_server_with_a_token_that_was_set_is_taken_by_its_address_and_again_after_a_restart(
    tmp_path: Path,
) -> None:
    own = "a-token-that-was-set-by-its-user"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    with user(tmp_path) as someone:
        someone.env["RMI_AGENT_TOKEN"] = own
        given = {"python_projects_dir": tmp_path / "python_projects", "rmi_agent_server": url}
        server = someone.begin("--transport", "http", "--port", port)
        wait_for(server, "MCP at")
        assert (
            await resident_proxy(load(**given, rmi_agent_token="another-token-than-its-own"))
            is None
        )
        async with handed(load(**given, rmi_agent_token=own)) as client:
            assert (await call(client, "run_cell", code="6 * 7"))["text"][:2] == "42"
            server.terminate()
            server.communicate(timeout=60)
            assert "does not answer" in await error(client, "run_cell", code="1")
            wait_for(someone.begin("--transport", "http", "--port", port), "MCP at")
            assert (await call(client, "run_cell", code="6 * 7"))["text"][:2] == "42"


@pytest.mark.slow
def test_what_hands_all_on_imports_no_kernels() -> None:
    told = "import sys, rmi_agent.server.cli, rmi_agent.server.resident.proxy; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    foreign = {"rmi_agent.kernels", "jupyter_client", "ipykernel", "zmq", "nbformat", "nbconvert"}
    assert foreign & set(done.stdout.split()) == set()
