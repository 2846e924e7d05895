"""Which file or module `run_python` runs, and in which folder."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from rmi_agent.server import App, load

pytestmark = pytest.mark.anyio

TOOL = """
import os, sys
import pkg
print(__name__, os.getcwd(), *sys.argv, open("data.txt").read())
"""
FILES = {
    "app/pyproject.toml": "",
    "app/data.txt": "of the app",
    "app/pkg/__init__.py": "",
    "app/pkg/tool.py": TOOL,
    "app/project/data.txt": "of a folder named project",
    "app/tests/test_pkg.py": "import pkg\ndef test_a(): pass\ndef test_b():\n    x = 1\n    assert x == 2\n",
    "plain/sub/where.py": "import os; print(os.getcwd())",
}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("p").resolve() / "projects"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "outside").symlink_to(folder.parent)
    return folder


@pytest.fixture(scope="module")
async def client(projects: Path) -> AsyncIterator[Client[Any]]:
    patch = pytest.MonkeyPatch()
    patch.delenv("PYTEST_CURRENT_TEST", raising=False)
    app = App(load(python_projects_dir=projects))
    async with Client(app.mcp) as connected:
        yield connected
    patch.undo()


async def run(client: Client[Any], **arguments: Any) -> tuple[str, dict[str, Any]]:
    """The text and the facts of a run; the session is closed."""
    result = await client.call_tool_mcp("run_python", arguments)
    facts = result.structured_content or {}
    if "session_id" in facts and "session_id" not in arguments:
        await client.call_tool("close_session", {"session_id": facts["session_id"]})
    return result.content[0].text, facts


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"module": "pkg.tool", "cwd": "app"},
        {"module": "pkg.tool", "cwd": "projects/app/"},  # as of files: named after the root
        {"file_name": "app/pkg/tool.py", "cwd": "project"},
        {"file_name": "app/pkg/tool.py", "cwd": "app"},
        {"file_name": "app/pkg/tool.py", "cwd": "./app/pkg/.."},
    ],
)
async def test_package_imports_and_data_of_the_root_work(
    client: Client[Any], projects: Path, arguments: dict[str, Any]
) -> None:
    text, facts = await run(client, **arguments, args=["a b"])
    name = str(projects / "app/pkg/tool.py") if "module" in arguments else "pkg/tool.py"
    assert text.startswith(f"__main__ {projects / 'app'} {name} a b of the app\n"), text
    assert facts["exit_code"] == 0


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        ({}, "plain/sub"),
        ({"cwd": ""}, "plain/sub"),
        ({"cwd": "project"}, "."),  # there is no project but the root
        ({"cwd": "."}, "."),
        ({"cwd": "app/project"}, "app/project"),
    ],
)
async def test_a_file_runs_in_its_own_folder_or_the_one_that_is_asked_for(
    client: Client[Any], projects: Path, arguments: dict[str, Any], folder: str
) -> None:
    text, _ = await run(client, file_name="plain/sub/where.py", **arguments)
    assert text.startswith(f"{os.path.normpath(projects / folder)}\n"), text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "exactly one"),
        ({"module": "pkg.tool", "file_name": "app/pkg/tool.py"}, "exactly one"),
        ({"module": "pkg\0tool"}, "NUL"),
        ({"module": "pkg.tool", "cwd": ".."}, "must be within"),
        ({"module": "pkg.tool", "cwd": "outside"}, "must be within"),
        ({"module": "pkg.tool", "cwd": "/"}, "must be within"),
        ({"module": "pkg.tool", "cwd": "app\0"}, "must be within"),
        ({"module": "pkg.tool", "cwd": "app/none"}, "No such file or directory. cwd is a folder"),
        ({"module": "pkg.tool", "cwd": "app/data.txt"}, "Not a directory. cwd is a folder"),
        ({"module": "x" * 1001}, "1,001 characters"),
    ],
)
async def test_what_can_not_be_run_is_refused(
    client: Client[Any], arguments: dict[str, Any], words: str
) -> None:
    text, facts = await run(client, **arguments)
    assert words in text
    assert not facts


async def test_a_missing_module_is_reported_in_pythons_words(client: Client[Any]) -> None:
    text, facts = await run(client, module="pkg.tool")
    assert "Error while finding module specification for 'pkg.tool'" in text
    assert facts["exit_code"] == 1


async def test_a_session_sees_an_edited_package_and_stays_in_its_folder(
    client: Client[Any], projects: Path
) -> None:
    opened = await client.call_tool("run_cell", {"code": "import os; before = os.getcwd()"})
    session_id = opened.structured_content["session_id"]
    for text in ("first", "second"):
        (projects / "app/pkg/changing.py").write_text(f"WORD = {text!r}")
        (projects / "app/pkg/says.py").write_text("from .changing import WORD; print(WORD)")
        said, _ = await run(client, module="pkg.says", cwd="app", session_id=session_id)
        assert said.startswith(text)
    after = {"code": "os.getcwd() == before, WORD, __spec__.name", "session_id": session_id}
    result = await client.call_tool("run_cell", after)
    assert result.content[0].text.startswith("(True, 'second', 'pkg.says')")


async def test_a_module_is_recorded_as_what_runs_it_in_jupyter_and_is_run_again(
    client: Client[Any], projects: Path
) -> None:
    result = await client.call_tool(
        "run_python", {"module": "pkg.tool", "cwd": "app", "args": ["a b"], "stdin": "in"}
    )
    name = result.structured_content["notebook"]
    await client.call_tool("close_session", {"session_id": result.structured_content["session_id"]})
    assert "%run -m pkg.tool 'a b'" in Path(name).read_text()
    again = await client.call_tool("resume_session", {"notebook": Path(name).name})
    assert "1 of 1 cells were rerun, 1 of them with the recorded outputs" in again.content[0].text


@pytest.mark.slow
async def test_pytest_gives_its_output_counts_and_failing_tests(client: Client[Any]) -> None:
    text, facts = await run(client, module="pytest", cwd="app", args=["-p", "no:cacheprovider"])
    assert "FAILED tests/test_pkg.py::test_b - assert 1 == 2\n" in text
    assert "[Process exited with code 1]" in text
    assert facts["tests"] == {
        "counts": {"passed": 1, "failed": 1},
        "failed": ["tests/test_pkg.py::test_b"],
    }
    assert (facts["exit_code"], facts["status"], facts["state"]) == (1, "error", "kept")


async def test_a_missing_module_gets_the_hint_of_a_missing_import(client: Client[Any]) -> None:
    text, _ = await run(client, module="sklearn.no_such_module_anywhere")
    assert "scikit-learn" in text
    text, _ = await run(client, module="attr.no_such_module_anywhere")  # it is installed
    assert "No module named" in text and "rmi-agent" not in text
