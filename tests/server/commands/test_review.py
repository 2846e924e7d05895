"""`rmi-agent review`: on this machine, for this user, and gone when it ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.server.conftest import server_env
from tests.server.review.conftest import NAME, code, write

pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-m", "rmi_agent.server.cli", "review", "--no-browser"]
LINK = re.compile(r"(http://127\.0\.0\.1:\d+)(/review/enter/\S+)")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Any]:
    """The command, and the link that it shows."""
    projects, folder = tmp_path / "python_projects", tmp_path / "notebooks"
    projects.mkdir()
    folder.mkdir()
    write(folder, NAME, code("print('hello')"), principal="anybody")
    process = subprocess.Popen(
        [*COMMAND, "--notebooks-dir", str(folder)],
        env=server_env(projects),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def link_of(process: Any) -> tuple[str, str]:
    """The address and the path of the next link that it says."""
    for line in process.stdout:
        if found := LINK.search(line):
            return found[1], found[2]
    raise AssertionError(process.stderr.read())


def test_its_link_lets_in_once_and_shows_every_session(running: Any) -> None:
    url, link = link_of(running)
    with httpx2.Client(base_url=url, trust_env=False) as stranger:
        assert stranger.get("/").status_code == 401
        assert "in the terminal" in stranger.get(f"/sessions/{NAME}").text
        assert stranger.get("/review/enter/guess").status_code == 403
        assert stranger.get("/", headers={"Host": "evil.com"}).status_code == 421
        with httpx2.Client(base_url=url, trust_env=False) as user:
            let_in = user.get(f"{link}?next=/sessions/a%2520b")
            assert 'content="0; url=/sessions/a%20b"' in let_in.text
            assert let_in.status_code == 200 and "SameSite=strict" in let_in.headers["set-cookie"]
            assert f"/sessions/{NAME}" in user.get("/").text
            page = user.get(f"/sessions/{NAME}")
            assert page.status_code == 200 and "jupyter lab" in page.text
            assert "Create a link" not in page.text and "Sign out" not in page.text
        again = stranger.get(link)
        assert again.status_code == 403 and "has been used" in again.text
        assert stranger.get("/").status_code == 401
    url, other = link_of(running)
    assert other != link
    assert 'content="0; url=/"' in httpx2.get(f"{url}{other}?next=//evil.com", trust_env=False).text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_quietly(running: Any, number: int) -> None:
    link_of(running)
    running.send_signal(number)
    assert running.wait(10) in (0, 130, -signal.SIGTERM)
    assert running.stderr.read() == ""


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--notebooks-dir", str(tmp_path / "none")],
        env=server_env(tmp_path),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("rmi-agent-mcp-server: RMI_AGENT_NOTEBOOKS_DIR: the folder")
    assert done.stderr.count("\n") == 1
