"""A command that speaks to the background server itself: when it does, and what ends that."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rmi_agent.client.commands.completing import facts
from rmi_agent.client.resident import find_resident

from tests.server.resident.residents import User, user

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
COMMAND = [sys.executable, "-m", "rmi_agent.cli"]
WAITING = "import time; print('started', flush=True); time.sleep(60)"


@pytest.fixture(scope="module")
def someone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    with user(tmp_path_factory.mktemp("u")) as made:
        made.start()
        yield made


@pytest.fixture
def here(someone: User, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> User:
    """The user, whose environment and empty folder are those of this process."""
    for name, value in someone.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return someone


def command(someone: User, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words],
        env={**someone.env, **settings},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=100,
    )


@pytest.mark.slow
def test_a_command_uses_the_server_that_suits(here: User) -> None:
    found = find_resident()
    assert found is not None and found.record.pid == here.server.pid
    opened = command(here, "cell", "x = 6 * 7\nx")
    assert (opened.returncode, opened.stdout) == (0, "42\n")
    listed = command(here, "sessions").stdout
    assert Path(opened.stderr.split("Recorded in ")[1].splitlines()[0]).name in listed
    assert command(here, "run", "hello_world.py").stdout.startswith("Hello, World!\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RMI_AGENT_ATTACH", "never"),
        ("RMI_AGENT_SERVER", "http://127.0.0.1:1"),
        ("RMI_AGENT_KERNEL_MAX", "3"),
        ("RMI_AGENT_KERNEL_MAX", "none"),
        ("PYTHON_PROJECTS_DIR", "elsewhere"),
        ("RMI_AGENT_NOTEBOOKS_DIR", "${FOLDER}"),
    ],
)
def test_a_server_that_would_do_something_else_is_not_used(
    here: User, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert find_resident() is None


@pytest.mark.slow
def test_settings_count_that_are_in_the_current_folder(here: User, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RMI_AGENT_KERNEL_MAX=3\n")
    assert find_resident() is None
    (tmp_path / ".env").write_text(f"RMI_AGENT_NOTEBOOKS_DIR={here.folder / 'notebooks'}\n")
    assert find_resident() is not None


@pytest.mark.slow
def test_relative_folders_start_from_the_commands_own(
    here: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects = Path(here.env["PYTHON_PROJECTS_DIR"])
    monkeypatch.chdir(projects.parent)
    monkeypatch.setenv("PYTHON_PROJECTS_DIR", projects.name)
    assert find_resident() is not None


def test_a_record_that_others_can_write_is_not_believed(here: User) -> None:
    record = here.state / "resident.json"
    assert find_resident() is not None and facts()
    record.chmod(0o644)
    assert find_resident() is None and facts() == {}
    record.chmod(0o600)
    here.state.chmod(0o777)
    assert find_resident() is None and facts() == {}
    here.state.chmod(0o700)
    assert find_resident() is not None and facts()


@pytest.mark.slow
def test_a_command_ends_when_its_server_does(tmp_path: Path) -> None:
    with user(tmp_path) as someone:
        someone.start()
        process = subprocess.Popen(
            [*COMMAND, "cell", WAITING],
            env=someone.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout and process.stderr
            assert process.stdout.readline() == "started\n"
            someone.server.kill()
            assert "The background server has ended." in process.stderr.read()
        assert process.returncode == 1
        done = command(someone, "cell", "1", RMI_AGENT_SANDBOX="off")  # by a server of its own
        assert (done.returncode, done.stdout) == (0, "1\n")
