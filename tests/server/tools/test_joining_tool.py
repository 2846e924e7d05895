"""`attach_session`, as a client sees it: what is allowed, what is listed, and how it is refused."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.exceptions import ToolError
from jupyter_core.paths import jupyter_runtime_dir
from rmi_agent.client.grants import grant, grants_file
from rmi_agent.server import App, load

from tests.kernels.joined.person import Person, person

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def server(folder: Path, **settings: Any) -> AsyncIterator[Client[Any]]:
    folders = {"python_projects_dir": folder, "notebooks_dir": folder / "notebooks"}
    app = App(load(**folders, kernel_pool=0, **settings))
    async with Client(app.mcp) as connected:
        yield connected


@pytest.fixture
def runtime() -> Path:
    folder = Path(jupyter_runtime_dir())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
async def theirs(runtime: Path) -> AsyncIterator[Person]:
    async with person(runtime) as found:
        yield found
    grants_file().unlink(missing_ok=True)


CONNECTION = {
    **{f"{name}_port": 50_000 + at for at, name in enumerate(("shell", "iopub", "stdin", "hb"))},
    **{"control_port": 50_010, "ip": "127.0.0.1", "transport": "tcp", "key": "k"},
}


async def refusal(client: Client[Any], **arguments: str) -> str:
    with pytest.raises(ToolError) as raised:
        await client.call_tool("attach_session", arguments)
    return str(raised.value)


async def test_nothing_is_joined_unless_the_person_allows_it(tmp_path: Path) -> None:
    async with server(tmp_path) as client:
        for arguments in ({}, {"connection_file": "/etc/passwd"}, {"connection_file": "x.json"}):
            text = await refusal(client, **arguments)
            assert "not allowed" in text and "RMI_AGENT_ATTACH_KERNELS=local" in text
            assert "rmi-agent attach --allow" in text
        text = await refusal(client, server="http://127.0.0.1:1", kernel_id="x")
        assert "RMI_AGENT_ATTACH_KERNELS=local" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "it is not JSON"),
        ("[]", "it has no channels"),
        ("{}", "it has no channels"),
        ("[" * 9_000, "it is not JSON"),
        (json.dumps({**CONNECTION, "ip": "192.0.2.1"}), "its kernel is not on this machine"),
        (json.dumps({**CONNECTION, "ip": "kernel.example"}), "its kernel is not on this machine"),
        (json.dumps({**CONNECTION, "transport": "udp"}), "neither tcp nor ipc"),
        (json.dumps({**CONNECTION, "transport": "ipc", "ip": "x"}), "no absolute path"),
        (json.dumps({**CONNECTION, "shell_port": "1"}), "it has no channels"),
        (json.dumps({**CONNECTION, "key": ""}), "it has no key"),
        (json.dumps({**CONNECTION, "key": 7}), "its texts are none"),
        (json.dumps({**CONNECTION, "signature_scheme": "none"}), "signature scheme"),
        (json.dumps({**CONNECTION, "signature_scheme": "hmac-nosuch"}), "signature scheme"),
        (json.dumps({**CONNECTION, "signature_scheme": "hmac-new"}), "signature scheme"),
        (json.dumps({**CONNECTION, "more": "x" * 20_000}), "it is too large"),
    ],
)
async def test_what_is_no_connection_file_is_refused(
    tmp_path: Path, runtime: Path, content: str, why: str
) -> None:
    path = runtime / "kernel-odd.json"
    path.write_text(content)
    try:
        async with server(tmp_path, attach_kernels=("local",)) as client:
            text = await refusal(client, connection_file="kernel-odd.json")
            assert why in text and "%connect_info" in text
            listed = await client.call_tool("attach_session", {})
            assert listed.structured_content == {"kernels": []}
    finally:
        path.unlink()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX files")
@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "writable", "foreign", "missing"])
async def test_files_that_others_may_have_made_are_refused(
    tmp_path: Path, runtime: Path, kind: str
) -> None:
    path, target = runtime / "kernel-odd.json", tmp_path / "real.json"
    target.write_text(json.dumps(CONNECTION))
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(target)
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_text(json.dumps(CONNECTION))
        path.chmod(0o666 if kind == "writable" else 0o600)
    if kind == "foreign":
        if os.getuid() != 0:
            pytest.skip("only root can give files away")
        os.chown(path, 12345, 12345)
    try:
        async with asyncio.timeout(30), server(tmp_path, attach_kernels=("local",)) as client:
            assert "kernel-odd.json" in await refusal(client, connection_file="kernel-odd.json")
    finally:
        if kind == "folder":
            path.rmdir()
        else:
            path.unlink(missing_ok=True)


async def test_a_file_outside_jupyters_folder_needs_a_grant(tmp_path: Path, runtime: Path) -> None:
    path = tmp_path / "kernel-far.json"
    path.write_text(json.dumps(CONNECTION))
    async with server(tmp_path, attach_kernels=("local",)) as client:
        for name in (str(path), f"{runtime}/../../{path}", "../../etc/passwd", "~nobody-here/k"):
            text = await refusal(client, connection_file=name)
            assert "not in Jupyter's folder" in text and "--allow" in text


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX links")
async def test_a_link_to_jupyters_folder_can_not_lead_elsewhere_later(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, other = tmp_path / "link", tmp_path / "other"
    link.symlink_to(runtime)
    other.mkdir()
    (other / "kernel-planted.json").write_text(json.dumps(CONNECTION))

    def meanwhile() -> dict[str, str]:
        link.unlink()
        link.symlink_to(other)
        return {}

    monkeypatch.setattr("rmi_agent.server.tools.joining.granted_files", meanwhile)
    async with server(tmp_path, attach_kernels=("local",)) as client:
        text = await refusal(client, connection_file=f"{link}/kernel-planted.json")
        assert f"There is no connection file {runtime}" in text


@pytest.mark.slow
async def test_a_kernel_is_listed_joined_and_shown_as_attached(
    tmp_path: Path, theirs: Person
) -> None:
    await theirs.reply(theirs.cell("x = 41"))
    async with server(tmp_path, attach_kernels=("local",)) as client:
        listed = await client.call_tool("attach_session", {})
        assert "attach_session(connection_file='kernel-theirs.json')" in listed.content[0].text
        joined = await client.call_tool("attach_session", {"connection_file": "kernel-theirs.json"})
        facts = joined.structured_content
        assert facts["attached"] == {"connection_file": "kernel-theirs.json"}
        assert "outside this server's sandbox" in joined.content[0].text
        session = {"session_id": facts["session_id"]}
        ran = await client.call_tool("run_cell", {"code": "x + 1", **session})
        assert ran.content[0].text.startswith("42\n")
        rows = (await client.call_tool("list_sessions", {})).structured_content["sessions"]
        assert rows[0]["attached"] == facts["attached"] and rows[0]["memory_bytes"] is None
        for tool, more, words in (
            ("restart_session", {}, "only that person can restart"),
            ("fork_session", {}, "a person has open"),
            ("run_python", {"file_name": "a.py"}, "%run"),
        ):
            (tmp_path / "a.py").write_text("print(1)")
            with pytest.raises(ToolError, match=words):
                await client.call_tool(tool, {**session, **more})
        await client.call_tool("close_session", session)
    assert await theirs.value("x") == "41"


@pytest.mark.slow
async def test_a_plot_is_a_picture_without_set_up(tmp_path: Path, theirs: Person) -> None:
    async with server(tmp_path, attach_kernels=("local",)) as client:
        joined = await client.call_tool("attach_session", {"connection_file": theirs.file.name})
        session = {"session_id": joined.structured_content["session_id"], "timeout": 60}
        code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])"
        ran = await client.call_tool("run_cell", {"code": code, **session})
        assert [each.type for each in ran.content] == ["text", "image"], ran.content


@pytest.mark.slow
async def test_a_call_says_that_another_clients_cell_runs(tmp_path: Path, theirs: Person) -> None:
    said: list[str] = []

    async def note(_: float, __: float | None, message: str | None) -> None:
        said.append(message or "")

    async with server(tmp_path, attach_kernels=("local",), response_deadline=1.0) as client:
        joined = await client.call_tool("attach_session", {"connection_file": theirs.file.name})
        session = {"session_id": joined.structured_content["session_id"]}
        request = theirs.cell("import time; time.sleep(3)")
        await theirs.seen("execute_input", "sleep(3)")
        ran = await client.call_tool(
            "run_cell", {"code": "'done'", **session}, progress_handler=note
        )
        assert ran.structured_content["status"] == "running"
        assert "busy with a cell of another client" in ran.content[0].text
        assert any("busy with a cell of another client" in each for each in said)
        assert (await theirs.reply(request))["content"]["status"] == "ok"
        read = await client.call_tool("read_output", {**session, "wait": 20})
        assert read.content[0].text.startswith("'done'")


@pytest.mark.slow
async def test_a_person_can_allow_one_kernel(tmp_path: Path, theirs: Person) -> None:
    async with server(tmp_path) as client:
        assert "not allowed" in await refusal(client, connection_file=theirs.file.name)
        assert grant(theirs.file.name) == theirs.file
        listed = await client.call_tool("attach_session", {})
        assert "kernel-theirs.json" in listed.content[0].text
        joined = await client.call_tool("attach_session", {"connection_file": str(theirs.file)})
        session = {"session_id": joined.structured_content["session_id"]}
        ran = await client.call_tool("run_cell", {"code": "1 + 1", **session})
        assert ran.content[0].text.startswith("2\n")
        await client.call_tool("close_session", session)
        told = json.loads(theirs.file.read_text())
        theirs.file.write_text(json.dumps({**told, "key": "another kernel's"}))
        assert "not allowed" in await refusal(client, connection_file=theirs.file.name)
        theirs.file.write_text(json.dumps(told))
