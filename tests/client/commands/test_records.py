"""`rmi-agent sessions`, `show` and `open`, of sessions on record on this machine."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from rmi_agent.cli import main

Command = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.slow


def record(folder: Path, stamp: str, session: str | None, source: str, status: str = "ok") -> Path:
    """A notebook as a recorder would have written it."""
    cell = new_code_cell(source, outputs=[new_output("stream", text=f"{source} ran\n")])
    cell.metadata.rmi_agent = {"status": status, "elapsed": 0.5, "cell": 1}
    notebook = new_notebook(cells=[cell], metadata={"rmi_agent": {"session": session}})
    if session is None:  # of another program, which writes the metadata last
        notebook.metadata = nbformat.NotebookNode()
    path = folder / f"{stamp}-{source[:3]}-abc.ipynb"
    nbformat.write(notebook, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notebooks")
    record(folder, "20261101-120000", "AAAbbb", "oldest = 1", "timeout")
    record(folder, "20261102-120000", "AAAccc", "middle = 2")
    record(folder, "20261103-120000", None, "foreign = 3")
    record(folder, "20261104-120000", "-newes", "newest = 4", "error")
    (folder / "broken.ipynb").write_text("{")
    os.utime(folder / "broken.ipynb", (0, 0))
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "20261105-120000-fifo.ipynb")
    return folder


@pytest.fixture
def command(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Run a subcommand here: its exit code, stdout and stderr."""
    monkeypatch.setenv("RMI_AGENT_NOTEBOOKS_DIR", str(folder))
    monkeypatch.setattr("rmi_agent.client.resident.find_resident", lambda: None)

    def run(*words: str) -> tuple[int, str, str]:
        try:
            main([*words])
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


def test_sessions_on_record_are_listed(command: Command, folder: Path) -> None:
    code, out, err = command("sessions", "--last", "4")
    assert (code, err) == (0, "")
    head, *lines = out.splitlines()
    assert head.split()[:6] == ["SESSION", "WHAT", "RAN", "CELLS", "STATE", "AGE"]
    assert [line.split()[0] for line in lines] == [
        *("-newes", "20261103-120000-for-abc.ipynb", "AAAccc", "AAAbbb")
    ]
    for line, words in zip(lines, ("error", "ok", "ok", "timed out"), strict=True):
        assert f" {words} " in line and ".ipynb" in line
    assert "unreadable" in command("sessions", "--all")[1]
    code, out, err = command("sessions", "--prune", "soon")
    assert (code, out) == (2, "") and "--prune: 'soon' is no age" in err
    code, out, err = command("sessions", "--prune", "9000d", "--server", "127.0.0.1:1")
    assert (code, out) == (2, "") and "on this machine only" in err
    code, out, err = command("sessions", "--prune", "9000d")
    assert (code, err) == (0, "") and "nothing was deleted" in out


def test_a_session_is_shown_by_id_or_name_or_file(command: Command, folder: Path) -> None:
    shown = "[1] 500 ms\n>>> middle = 2\nmiddle = 2 ran\n"
    path = folder / "20261102-120000-mid-abc.ipynb"
    for named in ("AAAc", "AAAcccDDDeee", path.name, path.name[:12], str(path)):
        code, out, err = command("show", named)
        assert (code, out, err) == (0, shown, f"Recorded in {path}\n"), named
    assert command("show")[1].startswith("[1] error, 500 ms\n>>> newest = 4\n")
    assert command("show", "-newest12345")[1] == command("show")[1]
    code, out, err = command("show", "AAA")
    assert (code, out) == (1, "")
    assert [line.split()[0] for line in err.splitlines()] == ["'AAA'", "AAAccc", "AAAbbb"]
    code, out, err = command("show", "nothing")
    assert (code, out) == (1, "") and f"No session 'nothing' is recorded in {folder}." in err
    code, out, err = command("show", "broken")
    assert (code, out) == (1, "") and err.endswith("can't be shown: it is not a notebook.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="a script as a program")
def test_a_session_is_opened_in_jupyter_or_the_browser(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jupyter = tmp_path / "jupyter-lab"
    jupyter.write_text('#!/bin/sh\necho "lab $@"\n')
    jupyter.chmod(stat.S_IRWXU)
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\ngrep -o "url=[^\\"]*" "${{1#file://}}" > {tmp_path}/seen\n')
    browser.chmod(stat.S_IRWXU)
    env = {**os.environ, "RMI_AGENT_NOTEBOOKS_DIR": str(folder), "BROWSER": f"{browser} %s"}
    words = [sys.executable, "-m", "rmi_agent.cli", "open", "AAAc"]
    path = folder / "20261102-120000-mid-abc.ipynb"
    env["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.stdout.startswith("lab ") and done.stdout.endswith(f" {path}\n")
    assert f"Opening {path} in JupyterLab" in done.stderr
    with subprocess.Popen(
        [*words, "--browser"], env=env, stdout=subprocess.PIPE, text=True
    ) as serving:
        assert serving.stdout is not None
        assert serving.stdout.readline() == f"Sessions in {folder}:\n"
        link = serving.stdout.readline().strip()
        serving.stdout.readline()
        serving.terminate()
    assert link.endswith("?next=/sessions/20261102-120000-mid-abc")
    assert (tmp_path / "seen").read_text().strip() == f"url={link}"
