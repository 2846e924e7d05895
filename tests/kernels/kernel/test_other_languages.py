"""A kernel of another language: what is promised of sessions holds for it, too."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from jupyter_client.kernelspec import KernelSpecManager
from rmi_agent.server import App, load

from tests.server.conftest import fill

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.languages,
    pytest.mark.skipif(sys.platform == "win32", reason="bash"),
]
SPEC = """{"argv": [%r, "-m", "bash_kernel", "-f", "{connection_file}"],
 "display_name": "Bash", "language": "bash", "env": {"PS1": "$"}}"""


@pytest.fixture(scope="module", params=["off", "bwrap"])
async def bash(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Client[Any]]:
    """A server whose kernels are bash's, by their kernelspec alone."""
    folder = tmp_path_factory.mktemp("b")
    source = folder / "bash"
    source.mkdir()
    (source / "kernel.json").write_text((SPEC % sys.executable).replace("'", '"'))
    specs = KernelSpecManager()
    where = specs.install_kernel_spec(str(source), "bash", user=True)
    app = App(load(python_projects_dir=fill(folder), kernel_name="bash", sandbox=request.param))
    async with Client(app.mcp) as client:
        yield client
    specs.remove_kernel_spec("bash")
    assert not Path(where).exists()


async def run(client: Client[Any], code: str, **more: Any) -> tuple[str, dict[str, Any]]:
    result = await client.call_tool_mcp("run_cell", {"code": code, **more})
    facts = dict(result.structured_content or {})
    return result.content[0].text, facts


async def test_state_output_errors_and_timeouts_are_as_with_python(bash: Client[Any]) -> None:
    text, facts = await run(bash, "x=41; echo hello")
    session = {"session_id": facts["session_id"]}
    # Nothing else: what a kernel says while it starts is no cell's output.
    assert text.splitlines()[:-1] == ["hello"]
    text, facts = await run(bash, "ls /nowhere", **session)
    assert facts["status"] == "error" and "No such file" in text
    text, facts = await run(bash, "sleep 60", **session, timeout=0.5)
    assert (facts["status"], facts["state"]) == ("timeout", "kept")
    text, _ = await run(bash, "echo $((x + 1))", **session)
    assert text.startswith("42\n")


async def test_a_model_is_told_which_language_it_is(bash: Client[Any]) -> None:
    assert "The kernels run bash" in str(bash.instructions)


async def test_run_python_says_why_not(bash: Client[Any]) -> None:
    result = await bash.call_tool_mcp("run_python", {"file_name": "hello_world.py"})
    assert result.is_error
    assert (
        "needs a Python kernel (ipykernel), and this server's kernel is 'bash'"
        in result.content[0].text
    )


async def test_its_death_is_told_and_the_session_goes_on(bash: Client[Any]) -> None:
    _, facts = await run(bash, "x=1")
    session = {"session_id": facts["session_id"]}
    text, facts = await run(bash, "kill -9 $PPID", **session)
    assert (facts["status"], facts["state"]) == ("dead", "lost"), text
    text, facts = await run(bash, "echo [$x]", **session)
    assert text.startswith("[]\n") and facts["state"] == "kept"


async def test_its_notebook_says_what_it_is(bash: Client[Any]) -> None:
    import nbformat

    _, facts = await run(bash, "echo 1")
    notebook = nbformat.read(facts["notebook"], as_version=4)
    assert notebook.metadata.kernelspec.name == "bash"
    assert notebook.metadata.language_info.name == "bash"


BURSTING = """
import time

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel


class Bursts(Kernel):
    implementation = language = "bursts"
    implementation_version = banner = "1"
    language_info = {"name": "bursts", "mimetype": "text/plain", "file_extension": ".txt"}

    async def do_execute(self, code, silent, store_history=True, *_, **__):
        time.sleep(1 if code == "burst" else 0)
        for number in range(1500 if code == "burst" else 1):
            if number % 20 == 0:
                time.sleep(0.002)  # ZeroMQ's own thread is to come along
            content = {"name": "stdout", "text": f"{number:600d}\\n"}
            self.send_response(self.iopub_socket, "stream", content)
        return {"status": "ok", "execution_count": self.execution_count}


IPKernelApp.launch_instance(kernel_class=Bursts)
"""


async def test_a_kernel_that_waits_for_no_reader_loses_no_output(tmp_path: Path) -> None:
    source = tmp_path / "bursts"
    source.mkdir()
    (source / "bursts.py").write_text(BURSTING)
    argv = [sys.executable, str(source / "bursts.py"), "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Bursts", "language": "bursts"}
    (source / "kernel.json").write_text(json.dumps(spec))
    specs = KernelSpecManager()
    specs.install_kernel_spec(str(source), "bursts", user=True)
    try:
        app = App(load(python_projects_dir=fill(tmp_path), kernel_name="bursts", sandbox="off"))
        async with Client(app.mcp) as client:
            _, facts = await run(client, "start")
            session = {"session_id": facts["session_id"]}
            bursting = asyncio.create_task(run(client, "burst", **session))
            await asyncio.sleep(0.7)
            time.sleep(3)  # the reader stalls while the kernel sends
            _, facts = await bursting
            assert facts["status"] == "ok"
            stdout = json.loads(Path(facts["notebook"]).read_text())["cells"][-1]["outputs"]
            assert len("".join(stdout[0]["text"]).split()) == 1500
    finally:
        specs.remove_kernel_spec("bursts")
