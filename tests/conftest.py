"""What all tests share: an environment of their own, and sessions on real kernels."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import hypothesis
import psutil
import pytest
from rmi_agent.kernels import Config, Launch, Policy, Run, Session, Sessions, Tier
from rmi_agent.kernels.fork import TEMPLATES
from rmi_agent.server.settings import VARIABLES

# The suites of servers, clients, sessions and programs pass in each: RMI_AGENT_SANDBOX=bwrap pytest …
SANDBOX = os.environ.get("RMI_AGENT_SANDBOX") or os.environ.get("SANDBOX", "off")

# How long an example takes says nothing about what is tested.
hypothesis.settings.register_profile(
    "busy machine",
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("busy machine")


def pytest_configure(config: pytest.Config) -> None:
    """Without a database, hypothesis still keeps files, and from the collection on."""
    folder = tempfile.mkdtemp(prefix="hyp")
    patch = pytest.MonkeyPatch()
    patch.setenv("HYPOTHESIS_STORAGE_DIRECTORY", folder)
    config.add_cleanup(patch.undo)
    config.add_cleanup(lambda: shutil.rmtree(folder))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def own_environment() -> Iterator[None]:
    """No setting from outside, no file in the user's folders, no process left behind."""
    folder = Path(tempfile.mkdtemp(prefix="rmi"))  # short: socket paths begin with it
    patch = pytest.MonkeyPatch()
    # A shell's background jobs inherit that Ctrl-C is ignored, and so would what tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in (name for one in VARIABLES.values() for name in one.names):
        patch.delenv(name, raising=False)
    patch.setenv("RMI_AGENT_SANDBOX", SANDBOX)
    # Each server would import pandas and matplotlib ahead; tests that need that say so.
    patch.setenv("RMI_AGENT_KERNEL_PRELOAD", "")
    for name, sub in (
        ("XDG_RUNTIME_DIR", "r"),
        ("XDG_CACHE_HOME", "c"),
        ("XDG_DATA_HOME", "data"),
        ("XDG_STATE_HOME", "s"),
        ("WIN_PD_OVERRIDE_LOCAL_APPDATA", "l"),  # what platformdirs asks Windows for
        ("JUPYTER_DATA_DIR", "d"),
        ("JUPYTER_CONFIG_DIR", "g"),
        ("MPLCONFIGDIR", "m"),
        ("IPYTHONDIR", "i"),  # for the kernels of others: nbclient's
    ):
        (folder / sub).mkdir(mode=0o700)
        patch.setenv(name, str(folder / sub))
    yield
    TEMPLATES.close()
    patch.undo()
    left = psutil.Process().children(recursive=True)
    sockets = list((folder / "r").rglob("*"))
    shutil.rmtree(folder)
    assert not left, f"processes left behind: {left}"
    assert [path for path in sockets if path.is_file() or path.is_socket()] == []


@pytest.fixture(autouse=True)
def own_process() -> Iterator[None]:
    """What is called may turn logging off or set variables for its process, here the tests' own."""
    logs, before = logging.root.manager.disable, kernel_env()
    yield
    logging.disable(logs)
    for name in kernel_env().keys() - before:
        del os.environ[name]
    os.environ.update(before)


def kernel_env() -> dict[str, str]:
    """The test's environment as kernels get it; ipykernel behaves differently under pytest."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


def launch(folder: Path) -> Launch:
    return Launch(cwd=folder, runtime=folder, env=kernel_env(), preload=())


def policy(folder: Path, tier: str = SANDBOX, **more: Any) -> Policy | None:
    if tier == "off":
        return None
    return Policy(cast(Tier, tier), folder, homes=folder.parent / f"{folder.name}-homes", **more)


@pytest.fixture(scope="module")
async def sessions(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sessions]:
    """Sessions shared by a module's tests; each test opens its own."""
    folder = tmp_path_factory.mktemp("s")
    async with Sessions(
        Config(folder / "notebooks"),
        launch(folder),
        policy=policy(folder, write=(tmp_path_factory.getbasetemp(),)),  # all tests' folders
    ) as opened:
        yield opened


@pytest.fixture
async def session(sessions: Sessions) -> AsyncIterator[Session]:
    """A fresh session."""
    opened = await sessions.open()
    yield opened
    await sessions.close(opened)


async def cell(session: Session, code: str, timeout: float = 30) -> Run:
    """Run a snippet to its end."""
    return await session.submit_cell(code, timeout).task


def stream(run: Run, name: str = "stdout") -> str:
    """The text of one stream of a run."""
    return "".join(o.text for o in run.cell.outputs if o.output_type == "stream" and o.name == name)


def value(run: Run) -> str:
    """The text of the last expression's value."""
    return "".join(
        o.data["text/plain"] for o in run.cell.outputs if o.output_type == "execute_result"
    )
