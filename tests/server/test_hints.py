"""Hints are true or absent: each has a cause that was checked."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from rmi_agent.kernels import LOCAL, Failed, Failure, Policy
from rmi_agent.server import App, load
from rmi_agent.server.hints import Hints
from rmi_agent.server.module_names import package_of

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client[Any]]:
    folder = tmp_path_factory.mktemp("p")
    (folder / "asks.py").write_text("print(only_there)")
    (folder / "loop.py").write_text(
        "import asyncio\nasync def f(): asyncio.run(f())\nasyncio.run(f())"
    )
    (folder / "sub").mkdir()
    (folder / "sub" / "helpers_of_mine.py").write_text("")
    patch = pytest.MonkeyPatch()
    patch.delenv("PYTEST_CURRENT_TEST", raising=False)
    app = App(load(python_projects_dir=folder, notebooks_dir=folder / "notebooks"))
    async with Client(app.mcp) as connected:
        yield connected


async def run(client: Client[Any], code: str, **more: Any) -> tuple[str, str]:
    """The text of a cell's or a file's result, and its session."""
    tool, key = ("run_python", "file_name") if code.endswith(".py") else ("run_cell", "code")
    result = await client.call_tool(tool, {key: code, **more})
    return result.content[0].text, result.structured_content["session_id"]


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("import cv2", "cv2 is in the package opencv-python-headless: `%pip install "),
        ("from skimage import io", "`%pip install scikit-image`"),
        ("import Crypto.Cipher", "`%pip install pycryptodome`"),
        ("import pandsa", "There is no module pandsa: did you mean pandas?"),
        ("import some_module_of_nobody", "`%pip install some_module_of_nobody`"),
        (
            "import asyncio\nasync def f(): pass\nx = f()\ntry: asyncio.run(x)\nfinally: x.close()",
            "use `await main()`",
        ),
        (
            "import asyncio\nasync def f(): pass\nx = f()\n"
            "try: asyncio.get_event_loop().run_until_complete(x)\nfinally: x.close()",
            "use `await main()`",
        ),
    ],
)
async def test_a_hint_says_what_to_do(client: Client[Any], code: str, hint: str) -> None:
    text, session = await run(client, code)
    await client.call_tool("close_session", {"session_id": session})
    assert "[rmi-agent: " in text and hint in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "open('nope.csv')",
        "open('/nowhere/at/all.csv')",
        "open('/')",
        "import errno; raise OSError(errno.ENOSPC, 'No space left on device', 'x')",
        "import errno; raise OSError(errno.EADDRINUSE, 'Address already in use')",
        "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
        "import json.nothing",
        "import helpers_of_mine",
        "import msvcrt",
        "never_defined_anywhere",
        "raise ModuleNotFoundError('No module', name='../../x')",
        "raise NameError('x', name='a b')",
        "loop.py",
        "1 / 0",
    ],
)
async def test_without_a_certain_cause_there_is_no_hint(client: Client[Any], code: str) -> None:
    text, session = await run(client, code)
    await client.call_tool("close_session", {"session_id": session})
    assert "rmi-agent" not in text


async def test_a_name_that_another_session_defines_is_found_there(client: Client[Any]) -> None:
    _, first = await run(client, "only_there = 1; not_there = 2; del not_there")
    text, second = await run(client, "only_there")
    assert f"only_there is defined in your session {first}: pass that session_id." in text
    text, third = await run(client, "asks.py")
    assert f"session {first}:" in text
    assert "rmi-agent" not in (await run(client, "not_there", session_id=second))[0]
    for session in (first, second, third):
        await client.call_tool("close_session", {"session_id": session})


@pytest.mark.slow
@pytest.mark.parametrize(
    "binds",
    [
        "import socket\ns = socket.socket()\ns.bind(('127.0.0.1', PORT))",
        "import http.server as h\nh.HTTPServer(('127.0.0.1', PORT), h.SimpleHTTPRequestHandler)",
        "import asyncio\nawait asyncio.start_server(print, '127.0.0.1', PORT)",
        "port = PORT\nimport socket\ndef begin(): socket.create_server(('127.0.0.1', port))\nbegin()",
    ],
)
async def test_a_port_that_an_idle_session_holds_is_named(client: Client[Any], binds: str) -> None:
    held = "import socket\nheld = socket.create_server(('127.0.0.1', 0))\nheld.getsockname()[1]"
    text, holder = await run(client, held)
    text, other = await run(client, binds.replace("PORT", text.split("\n")[0]))
    assert f"Your session {holder} is idle, but listens on port" in text
    assert f"close_session(session_id='{holder}') frees it." in text
    for session in (holder, other):
        await client.call_tool("close_session", {"session_id": session})


# -- paths outside the sandbox


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path.resolve()
    for name in ("projects", "outside/.ssh", "hidden", "data"):
        (folder / name).mkdir(parents=True)
    for name in ("outside/x.csv", "outside/.ssh/key", "hidden/x.csv", "data/x.csv", "projects/x"):
        (folder / name).write_text("1")
    (folder / "outside" / "link.csv").symlink_to(folder / "outside" / ".ssh" / "key")
    return folder


async def hint(
    folder: Path, path: str, number: int = errno.ENOENT, principal: str = LOCAL, **policy: Any
) -> str:
    rules = Policy(
        "bwrap",
        folder / "projects",
        folder / "homes",
        read=(folder / "data",),
        hide=(folder / "hidden",),
        **policy,
    )
    hints = Hints(load(python_projects_dir=folder / "projects"), rules)
    failure = Failure("FileNotFoundError", "", number, str(folder / path))
    return await hints.of(Failed("s", principal, False, (failure,)))


async def test_a_path_that_exists_outside_the_sandbox_is_named(outside: Path) -> None:
    said = await hint(outside, "outside/x.csv")
    assert said.startswith(f"{outside}/outside/x.csv exists outside the sandbox")
    assert await hint(outside, "outside/../outside/x.csv") == said
    assert await hint(outside, "outside/x.csv", errno.EACCES) == said


@pytest.mark.parametrize(
    "path",
    [
        "outside/nothing.csv",
        "outside/.ssh/key",
        "outside/.ssh",
        "outside/link.csv",
        "hidden/x.csv",
        "projects/x",
        "data/x.csv",
        "homes/x",
    ],
)
async def test_of_other_paths_nothing_is_told(outside: Path, path: str) -> None:
    assert await hint(outside, path) == ""


async def test_only_the_local_user_learns_what_exists(outside: Path) -> None:
    assert await hint(outside, "outside/x.csv", principal="alice") == ""


async def test_where_code_may_not_write_it_is_told_where_it_may(outside: Path) -> None:
    said = await hint(outside, "outside/new.csv", errno.EROFS, "alice")
    assert f"it may write to {outside}/projects, ~ and /tmp" in said
    said = await hint(outside, "projects/new.csv", errno.EROFS, "alice", read_only=True)
    assert "it may write to ~ and /tmp" in said


async def test_without_a_network_what_is_unreachable_has_a_hint(outside: Path) -> None:
    hints = Hints(
        load(python_projects_dir=outside / "projects"),
        Policy("bwrap", outside / "projects", outside / "homes"),
    )
    for failure, has_hint in (
        (Failure("OSError", errno=errno.ENETUNREACH), True),
        (Failure("gaierror", errno=-3), True),
        (Failure("ConnectionRefusedError", errno=errno.ECONNREFUSED), False),
        (Failure("TimeoutError"), False),
    ):
        said = await hints.of(Failed("s", LOCAL, False, (Failure("URLError"), failure)))
        assert ("without network access" in said) == has_hint


@pytest.mark.parametrize(
    ("module", "package"),
    [
        *(("cv2", "opencv-python-headless"), ("PIL", "pillow"), ("sklearn", "scikit-learn")),
        *(("yaml", "PyYAML"), ("bs4", "beautifulsoup4"), ("dotenv", "python-dotenv")),
        *(("serial", "pyserial"), ("Crypto", "pycryptodome"), ("pandas", "pandas")),
    ],
)
def test_a_module_has_its_package(module: str, package: str) -> None:
    assert package_of(module) == (package, True)
