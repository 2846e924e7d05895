"""A server in this process, and servers in processes of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fastmcp import Client
from rmi_agent.client.local_token import token_file
from rmi_agent.server import App, load

HTTP_SERVER = [sys.executable, "-m", "rmi_agent.server.cli", "--transport", "http"]
SAMPLES = Path(__file__).parent.parent / "test_samples"


def fill(folder: Path) -> Path:
    """A projects folder with the samples in it."""
    projects = folder / "python_projects"
    projects.mkdir(parents=True)
    for sample in SAMPLES.glob("*.py"):
        (projects / sample.name).write_bytes(sample.read_bytes())
    return projects


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("p"))


@pytest.fixture(scope="module")
async def client(projects: Path) -> AsyncIterator[Client]:  # type: ignore[type-arg]
    """A client of a server in this process."""
    patch = pytest.MonkeyPatch()
    patch.delenv("PYTEST_CURRENT_TEST", raising=False)
    app = App(load(python_projects_dir=projects, response_deadline=2.0))
    async with Client(app.mcp) as connected:
        yield connected


def token() -> str:
    """The one that servers of these tests have made."""
    return token_file().read_text("utf-8").strip()


def server_env(projects: Path, **settings: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    return {**env, "PYTHON_PROJECTS_DIR": str(projects), **settings}


@contextlib.contextmanager
def http_server(projects: Path, **settings: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server on a free port; its base URL and its process. `token()` is its token."""
    process = subprocess.Popen(
        [*HTTP_SERVER, "--port", "0"],
        env=server_env(projects, **settings),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "MCP at " in line:
                yield line.split("MCP at ")[1].split("/mcp")[0], process
                break
        else:
            raise AssertionError("the server did not start")
    finally:
        process.terminate()
        process.wait(20)
        process.stderr.close()
