"""Sessions on kernels that a person has open on a Jupyter Server, as JupyterLab does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import nbformat
import pytest
from fastmcp import Client as McpClient
from jupyter_client.asynchronous.client import AsyncKernelClient
from rmi_agent.kernels import KernelError, Session, Sessions
from rmi_agent.kernels.addresses import PersonsKernel
from rmi_agent.server import App, load

from tests.conftest import cell, stream, value
from tests.kernels.joined.person import SOON, Client
from tests.kernels.jupyter_server.jupyter import Jupyter, Proxy

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.joined,
    pytest.mark.jupyter_server,
    pytest.mark.xdist_group(__name__),
]
LOOP = "import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.01)"


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    server = Jupyter(tmp_path_factory.mktemp("jupyter"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


def request(jupyter: Jupyter, method: str, path: str, **more: Any) -> Any:
    headers = {"Authorization": f"token {jupyter.token}"}
    url = f"{jupyter.server.url}/api/{path}"
    answer = httpx2.request(method, url, headers=headers, timeout=SOON, **more)
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def state_of(jupyter: Jupyter, kernel_id: str) -> str:
    """What the server knows of a kernel: it opens no channels of one that is starting."""
    return next(one["execution_state"] for one in jupyter.kernels() if one["id"] == kernel_id)


class Opened(Client):
    """A notebook that a person has open; their client here is one by the connection file."""

    def __init__(self, jupyter: Jupyter, kernel_id: str, client: AsyncKernelClient) -> None:
        super().__init__(client)
        self.kernel = PersonsKernel(kernel_id, server=jupyter.server)


@asynccontextmanager
async def opened(jupyter: Jupyter, notebook: str = "theirs.ipynb") -> AsyncIterator[Opened]:
    (jupyter.folder / "root" / notebook).write_text(nbformat.writes(nbformat.v4.new_notebook()))
    session = {
        "name": notebook,
        "path": notebook,
        "type": "notebook",
        "kernel": {"name": "python3"},
    }
    made = await asyncio.to_thread(request, jupyter, "POST", "sessions", json=session)
    kernel_id = made["kernel"]["id"]
    client = AsyncKernelClient()
    client.load_connection_file(str(jupyter.folder / "r" / f"kernel-{kernel_id}.json"))
    client.start_channels(hb=False)  # which would give up a kernel that is still starting
    try:
        await client.wait_for_ready(timeout=SOON)
        found = Opened(jupyter, kernel_id, client)
        async with asyncio.timeout(SOON):
            while state_of(jupyter, kernel_id) != "idle":  # what it says of its start may be late
                await found.reply(found.cell("pass"))
        yield found
    finally:
        client.stop_channels()
        await asyncio.to_thread(jupyter.delete, kernel_id)


@pytest.fixture
async def theirs(jupyter: Jupyter) -> AsyncIterator[Opened]:
    async with opened(jupyter) as found:
        yield found


@pytest.fixture
async def joined(sessions: Sessions, theirs: Opened) -> AsyncIterator[Session]:
    session = await sessions.join(theirs.kernel)
    yield session
    await sessions.close(session)


async def until(condition: Any) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.01)


async def test_variables_are_seen_both_ways_and_ours_alone_is_recorded(
    joined: Session, theirs: Opened
) -> None:
    await theirs.reply(theirs.cell("theirs = 20; print('not yours')"))
    assert value(await cell(joined, "ours = theirs + 1; ours")) == "21"
    assert await theirs.value("ours") == "21"
    await theirs.seen("execute_input", "ours = theirs + 1")
    assert joined.notebook is not None
    notebook = nbformat.read(joined.notebook, 4)
    assert "yours" not in json.dumps(notebook) and len(notebook.cells) == 1
    about = notebook.metadata.rmi_agent.attached
    assert about.kernel_id == theirs.kernel.name and theirs.kernel.server is not None
    assert theirs.kernel.server.token not in json.dumps(notebook)


async def test_interrupts_reach_our_cells_only(joined: Session, theirs: Opened) -> None:
    await cell(joined, "kept = 5")
    run = await cell(joined, LOOP, timeout=0.5)
    assert (run.status, run.state) == ("timeout", "kept")
    assert joined.kernel is not None and joined.kernel.joined is not None
    request = theirs.cell("import time; time.sleep(3); lasted = True")
    await until(lambda: joined.kernel.joined.traffic.is_busy)
    ours = joined.submit_cell("lasted, kept", 2)
    assert (await theirs.reply(request))["content"]["status"] == "ok"
    assert value(await ours.task) == "(True, 5)"
    request = theirs.cell("import time; time.sleep(1.5); done = 1")
    await until(lambda: joined.kernel.joined.traffic.is_busy)
    ours = joined.submit_cell("never_ran = 1", 30)
    await until(lambda: ours.waits_for_others)
    assert joined.interrupt() is ours
    assert "None of it ran" in " ".join((await ours.task).notices)
    assert (await theirs.reply(request))["content"]["status"] == "ok"
    assert await theirs.value("'never_ran' in globals()") == "False"


async def test_a_busy_kernel_is_joined_and_left_alone(
    sessions: Sessions, jupyter: Jupyter, theirs: Opened, tmp_path: Path
) -> None:
    # A server asks a kernel about itself at the first websocket, which JupyterLab's has been.
    await sessions.close(await sessions.join(theirs.kernel))
    flag = tmp_path / "flag"
    request = theirs.cell(f"while not __import__('os').path.exists({str(flag)!r}): pass\nslept = 2")
    await until(lambda: state_of(jupyter, theirs.kernel.name) == "busy")
    session = await sessions.join(theirs.kernel)
    ours = session.submit_cell("slept", 30)
    await until(lambda: ours.waits_for_others)
    flag.touch()
    assert (await theirs.reply(request))["content"]["status"] == "ok"
    assert value(await ours.task) == "2"
    await sessions.close(session)
    assert await theirs.value("slept") == "2"


async def test_a_cut_connection_is_mended(
    sessions: Sessions, jupyter: Jupyter, theirs: Opened
) -> None:
    async with Proxy(jupyter.server) as proxy:
        session = await sessions.join(PersonsKernel(theirs.kernel.name, server=proxy.server))
        await cell(session, "y = 3")
        ours = session.submit_cell("import time; time.sleep(1.5); print(y)", 30)
        await until(lambda: ours.status == "running")
        await asyncio.sleep(0.3)
        proxy.cut()
        run = await ours.task
        assert run.state == "kept"
        assert stream(await cell(session, "print(y)")) == "3\n"
        await sessions.close(session)
    assert await theirs.value("y") == "3"


async def test_a_kernel_that_is_ended_or_restarted_there_is_lost(
    sessions: Sessions, jupyter: Jupyter
) -> None:
    async with opened(jupyter, "restarted.ipynb") as theirs:
        session = await sessions.join(theirs.kernel)
        await cell(session, "x = 1")
        path = f"kernels/{theirs.kernel.name}/restart"
        await asyncio.to_thread(request, jupyter, "POST", path)
        with pytest.raises(KernelError, match="attach_session joins it again"):
            await cell(session, "x")
        await sessions.close(session)
        again = await sessions.join(theirs.kernel)
        assert (await cell(again, "x")).error_name == "NameError"
        ours = again.submit_cell(LOOP, 30)
        await until(lambda: ours.outputs.size)
        await asyncio.to_thread(jupyter.delete, theirs.kernel.name)
        run = await ours.task  # which Jupyter interrupts before it ends the kernel
        interrupted = (run.status, run.error_name) == ("error", "KeyboardInterrupt")
        assert interrupted or (run.status, run.state) == ("dead", "lost")
        with pytest.raises(KernelError, match="attach_session joins it again"):
            await cell(again, "x")
        await sessions.close(again)


async def test_the_tool_finds_a_kernel_by_its_notebook(
    jupyter: Jupyter, theirs: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(jupyter.folder / "r"))
    folders = {"python_projects_dir": tmp_path, "notebooks_dir": tmp_path / "notebooks"}
    app = App(load(**folders, kernel_pool=0, attach_kernels=("local",)))
    async with McpClient(app.mcp) as client:
        listed = await client.call_tool("attach_session", {})
        assert f"kernel_id={theirs.kernel.name!r}" in listed.content[0].text
        assert "open with theirs.ipynb" in listed.content[0].text
        assert len(listed.structured_content["kernels"]) == len(jupyter.kernels())
        joined = await client.call_tool("attach_session", {"kernel_id": "theirs.ipynb"})
        session = {"session_id": joined.structured_content["session_id"]}
        ran = await client.call_tool("run_cell", {"code": "z = 6; z", **session})
        assert ran.content[0].text.startswith("6\n")
        unknown = await client.call_tool(
            "attach_session", {"kernel_id": "other.ipynb"}, raise_on_error=False
        )
        assert "There is no kernel 'other.ipynb'" in unknown.content[0].text
        assert jupyter.token not in unknown.content[0].text + listed.content[0].text
    assert await theirs.value("z") == "6"
