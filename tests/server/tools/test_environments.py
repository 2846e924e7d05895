"""Where code runs: a script's dependencies, a project's environment, and what the caller names."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from fastmcp import Client
from nbformat.v4 import new_code_cell, new_notebook
from rmi_agent.server import App, load

from tests.wheels import make_venv, make_wheel, settings_for

pytestmark = pytest.mark.anyio

NEEDS = """\
# /// script
# dependencies = ["tiny"]
# ///
import sys, tiny
print("tiny", tiny.VERSION, "numpy" in sys.modules)
"""


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("e") / "projects"
    folder.mkdir()
    wheels = folder.parent / "wheels"
    make_wheel(wheels, "tiny")
    (folder / "needs.py").write_text(NEEDS)
    (folder / "plain.py").write_text("import sys\nprint(sys.prefix)\n")
    (folder / "unmet.py").write_text(NEEDS.replace('"tiny"', '"tiny>=7"'))
    sub = folder / "sub"
    (sub / "pkg").mkdir(parents=True)
    make_venv(sub / ".venv", only_here="VALUE = 7\n")
    (sub / "pkg" / "run.py").write_text("import sys, only_here\nprint(sys.prefix, only_here.VALUE)")
    return folder


@pytest.fixture(scope="module")
async def client(projects: Path) -> AsyncIterator[Client[Any]]:
    patch = pytest.MonkeyPatch()
    patch.delenv("PYTEST_CURRENT_TEST", raising=False)
    for name, value in settings_for(projects.parent / "wheels").items():
        patch.setenv(name, value)
    app = App(load(python_projects_dir=projects, response_deadline=30.0))
    async with Client(app.mcp) as connected:
        yield connected
    patch.undo()


async def call(client: Client[Any], tool: str, **arguments: Any) -> str:
    result = await client.call_tool_mcp(tool, arguments)
    return str(result.content[0].text)  # type: ignore[union-attr]


def session_of(text: str) -> str:
    return text.rpartition("[session_id: ")[2].partition("]")[0].split()[0].strip(",;")


@pytest.mark.slow
async def test_a_script_runs_with_the_dependencies_that_it_declares(client: Client[Any]) -> None:
    said: list[str] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        said.append(message or "")

    first = await client.call_tool(
        "run_python", {"file_name": "needs.py"}, progress_handler=progress
    )
    assert "tiny 1.0 False" in first.content[0].text
    assert any("tiny==1.0" in line for line in said)
    again = await call(client, "run_python", file_name="needs.py")
    assert "tiny 1.0 False" in again
    after = await call(client, "run_cell", code="tiny.VERSION", session_id=session_of(again))
    assert "'1.0'" in after
    ignored = await call(client, "run_python", file_name="needs.py", environment="default")
    assert "No module named 'tiny'" in ignored


async def test_what_cannot_be_resolved_is_told_in_the_words_of_uv(client: Client[Any]) -> None:
    said = await call(client, "run_python", file_name="unmet.py")
    assert "nothing was run" in said
    assert "only tiny<=1.0 is available" in said or "tiny>=7" in said


@pytest.mark.slow
async def test_a_file_runs_in_the_environment_of_its_project(
    client: Client[Any], projects: Path
) -> None:
    venv = projects / "sub" / ".venv"
    assert f"{venv} 7" in await call(client, "run_python", file_name="sub/pkg/run.py")
    assert str(venv) not in await call(client, "run_python", file_name="plain.py")
    named = await call(client, "run_python", file_name="plain.py", environment="sub")
    assert str(venv) in named
    notebook = new_notebook(cells=[new_code_cell("import sys, only_here; sys.prefix")])
    nbformat.write(notebook, projects / "sub" / "pkg" / "n.ipynb")
    ran = await call(client, "run_notebook", path="sub/pkg/n.ipynb")
    first = await call(client, "read_output", session_id=session_of(ran), cell=1)
    assert first.startswith(f"'{venv}'\n")
    cell = await call(client, "run_cell", code="import only_here", environment="sub/.venv")
    assert "Error" not in cell
    other = await call(
        client, "run_cell", code="1", environment="default", session_id=session_of(cell)
    )
    assert "runs in the environment 'sub/.venv'" in other


@pytest.mark.slow
async def test_commands_in_it_are_of_that_environment(client: Client[Any], projects: Path) -> None:
    code = "!python -c 'import sys, os; print(sys.prefix, os.environ[\"VIRTUAL_ENV\"])'"
    said = await call(client, "run_cell", code=code, environment="sub")
    assert said.count(str(projects / "sub" / ".venv")) == 2


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere", "no environment 'nowhere'"),
        ("../outside", "must be within"),
        ("sub/pkg", "no virtual environment"),
        ("sub\0", "must be within"),
    ],
)
async def test_an_environment_that_is_none_is_refused(
    client: Client[Any], name: str, says: str
) -> None:
    assert says in await call(client, "run_cell", code="1", environment=name)


async def test_a_broken_environment_is_not_silently_ignored(
    client: Client[Any], projects: Path
) -> None:
    broken = projects / "broken"
    shutil.copytree(projects / "sub" / ".venv", broken / ".venv", symlinks=True)
    (broken / "a.py").write_text("print(1)")
    python = broken / ".venv" / "bin" / "python"
    python.unlink()
    os.symlink("/nowhere/python", python)
    said = await call(client, "run_python", file_name="broken/a.py")
    assert "broken/.venv has no working Python" in said
    assert "1" in await call(client, "run_python", file_name="broken/a.py", environment="default")
    shutil.rmtree(broken)


async def test_environments_are_listed_with_python_and_packages(
    client: Client[Any], projects: Path
) -> None:
    locked = projects / "locked"
    locked.mkdir()
    (locked / "uv.lock").touch()
    (locked / "pyproject.toml").touch()
    result = await client.call_tool("list_environments", {})
    rows = {row["name"]: row for row in result.structured_content["environments"]}  # type: ignore[index]
    assert rows["default"]["python"].startswith("3.")
    assert rows["default"]["package_count"] > 10
    assert rows["sub/.venv"]["package_count"] == 0
    step = "install_packages([], environment='locked')"
    assert step in rows["locked/.venv"]["note"]
    for name in ("locked", "locked/.venv"):
        assert step in await call(client, "run_cell", code="1", environment=name)
    (locked / "uv.lock").unlink()
    said = await call(client, "install_packages", packages=["a"], environment="locked")
    assert "`!uv venv locked/.venv` in run_cell" in said
    shutil.rmtree(locked)


@pytest.mark.slow
async def test_a_missing_module_names_the_way_into_the_environment(
    client: Client[Any], projects: Path
) -> None:
    """A lock is never installed silently, so a run that lacks its packages says that it waits."""
    waits = projects / "waits"
    waits.mkdir()
    (waits / "a.py").write_text("import nowhere_to_find")
    assert "`%pip install nowhere_to_find`" in await call(
        client, "run_python", file_name="waits/a.py"
    )
    for name in ("uv.lock", "pyproject.toml"):
        (waits / name).touch()
    said = await call(client, "run_python", file_name="waits/a.py")
    assert "waits has a uv.lock and no environment yet; this ran in the default one." in said
    assert "install_packages([], environment='waits')" in said
    look = {"code": "import other_x", "session_id": session_of(said)}
    assert "environment='waits'" in await call(client, "run_cell", **look)
    shutil.rmtree(waits)
    said = await call(client, "run_cell", code="import nowhere_to_find", environment="sub")
    assert "install_packages(['nowhere_to_find'], environment='sub/.venv')" in said
    said = await call(client, "run_python", file_name="needs.py")
    look = {"code": "import nowhere_to_find", "session_id": session_of(said)}
    said = await call(client, "run_cell", **look)
    assert "add 'nowhere_to_find' to the dependencies in the file's `# /// script` block" in said


@pytest.mark.slow
async def test_cells_of_users_over_http_run_in_a_shared_environment_only_if_asked(
    client: Client[Any], projects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any user may have made the one in the folder that all share."""
    venv = make_venv(projects / ".venv")
    code = "import sys; sys.prefix"
    assert str(venv) in await call(client, "run_cell", code=code)
    monkeypatch.setattr("rmi_agent.server.tools.environment_choice.principal", lambda: "alice")
    assert str(venv) not in await call(client, "run_cell", code=code)
    assert str(venv) in await call(client, "run_cell", code=code, environment="auto")
    shutil.rmtree(venv)


async def test_packages_are_installed_and_seen_in_open_sessions(
    client: Client[Any], projects: Path
) -> None:
    make_wheel(projects.parent / "wheels", "little", "2.0")
    session = session_of(await call(client, "run_cell", code="1", environment="sub"))
    missing = await call(client, "run_cell", code="import little", session_id=session)
    assert "ModuleNotFoundError" in missing
    said = await call(client, "install_packages", packages=["little"], session_id=session)
    assert said == "Installed in sub/.venv: little 2.0."
    seen = await call(client, "run_cell", code="import little; little.VERSION", session_id=session)
    assert "'2.0'" in seen
    again = await call(client, "install_packages", packages=["little"], environment="sub")
    assert again == "sub/.venv had all of it already."
    failed = await call(client, "install_packages", packages=["little>=9"], environment="sub")
    assert "Nothing was installed. uv says:" in failed
    for bad in ("--index-url=http://x", "", "-r x"):
        assert "is no package" in await call(client, "install_packages", packages=[bad])


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "!uv pip",
        *(
            pytest.param(command, marks=pytest.mark.slow)
            for command in ("%pip", "!pip", "!pip3", "!python -m pip", "%uv pip")
        ),
    ],
)
async def test_pip_and_uv_in_cells_are_of_the_sessions_environment(
    client: Client[Any], projects: Path, command: str
) -> None:
    (site,) = (projects / "sub" / ".venv").glob("lib/*/site-packages")
    make_wheel(projects.parent / "wheels", "small", "3.0")
    session = session_of(await call(client, "run_cell", code="1", environment="sub"))
    said = await call(client, "run_cell", code=f"{command} install small", session_id=session)
    if command == "!python -m pip":  # a process of the environment's own, which has none
        assert "No module named pip" in said
        return
    assert "small" in said
    assert "CalledProcessError" not in said
    assert (site / "small-3.0.dist-info").is_dir()
    seen = await call(client, "run_cell", code="import small; small.VERSION", session_id=session)
    assert "'3.0'" in seen
    yes = "-y " if "uv" not in command else ""
    removed = f"{command} uninstall {yes}small"
    gone = await call(client, "run_cell", code=removed, session_id=session)
    assert "CalledProcessError" not in gone
    assert not (site / "small.py").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "arguments", "shows"),
    [
        ("run_python", {"file_name": "needs.py"}, ("tiny.VERSION", "'1.0'")),
        ("run_cell", {"code": "import only_here", "environment": "sub"}, ("only_here.VALUE", "7")),
    ],
)
async def test_a_resumed_session_runs_in_the_environment_of_the_former_one(
    client: Client[Any], tool: str, arguments: dict[str, Any], shows: tuple[str, str]
) -> None:
    session = session_of(await call(client, tool, **arguments))
    await call(client, "close_session", session_id=session)
    resumed = await client.call_tool("resume_session", {"notebook": session})
    again = str(resumed.structured_content["session_id"])  # type: ignore[index]
    assert shows[1] in await call(client, "run_cell", code=shows[0], session_id=again)


@pytest.mark.slow
async def test_a_notebook_runs_in_the_environment_of_its_project(
    client: Client[Any], projects: Path
) -> None:
    cell = {"cell_type": "code", "source": "import only_here", "metadata": {}, "outputs": []}
    notebook = {"cells": [{**cell, "execution_count": None}], "metadata": {}, "nbformat": 4}
    (projects / "sub" / "n.ipynb").write_text(json.dumps({**notebook, "nbformat_minor": 5}))
    said = await call(client, "run_notebook", path="sub/n.ipynb")
    assert "ModuleNotFoundError" not in said
