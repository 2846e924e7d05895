"""`rmi-agent repl` as somebody who sits at a terminal sees it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

if sys.platform == "win32":
    pytest.skip("POSIX terminals", allow_module_level=True)

from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from rmi_agent.client.line_editor import prompt
from rmi_agent.client.terminal import colour

from tests.client.screens import COMMAND, terminal
from tests.server.conftest import fill

STUB = str(Path(__file__).parents[1] / "completing.py")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folders of the test's own for what is kept."""
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHON_PROJECTS_DIR", str(fill(tmp_path)))
    yield tmp_path


@pytest.mark.parametrize("text", ["x = 1\n", "x = 1", "\n\nx\n\n", "", "  %who\n"])
def test_colours_leave_the_text_as_it_is(text: str) -> None:
    assert colour(text).plain == text
    assert colour(text, "python").plain == text
    assert colour(text, "ipython").plain == text


async def completions(values: list[str] | Exception, code: str, seconds: float = 0) -> list[str]:
    async def complete(asked: str) -> list[str]:
        assert asked == code
        await asyncio.sleep(seconds)
        assert not isinstance(values, Exception)
        return values

    document = Document(code)
    found = prompt.KernelCompleter(complete).get_completions_async(document, CompleteEvent())
    return [
        code[: len(code) + completion.start_position] + completion.text
        async for completion in found
    ]


@pytest.mark.anyio
async def test_completions_come_from_the_kernel_and_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await completions(["x = np.linspace"], "x = np.li") == ["x = np.linspace"]
    assert await completions(["a\x1b[2Jb"], "a") == ["ab"]
    monkeypatch.setattr(prompt, "COMPLETION_TIMEOUT", 0.05)
    started = time.monotonic()
    assert await completions(["late"], "l", seconds=60) == []
    assert time.monotonic() - started < 10


@pytest.mark.slow
def test_typing_is_completed_indented_kept_and_pasted(home: Path) -> None:
    with terminal("repl", "--server", STUB) as screen:
        screen.until("Session s1. :help lists commands.")
        screen.prompt()
        screen.type("np.lin\t")
        screen.until("lines_é")  # the menu
        screen.type("\t\r\r")
        screen.until("ran 'np.linspace'")
        screen.prompt()
        screen.type("def f():\rreturn 1\r\r")
        screen.until(r"ran 'def f():\n    return 1")
        screen.prompt()
        screen.type("?np.linspace\r")
        screen.until("Signature: np.linspace(start, stop)\nin s1")
        screen.prompt()
        screen.type("'größe 漢字 🐍'\r")
        screen.until("ran \"'größe 漢字 🐍'\"")
        screen.prompt()
        screen.type("dropped")
        screen.until(">>> dropped")
        screen.type("\x03")
        screen.prompt()
        screen.type("((\x1b\r")  # Alt-Enter
        screen.until("ran '(('")
        screen.prompt()
        screen.type("\x1b[200~" + "\n".join(f"x{i} = {i}" for i in range(200)) + "\x1b[201~\r")
        screen.until("\\nx199 = 199")
        screen.prompt()
        screen.resize(20, 10)
        screen.type("z = 1\r")
        screen.until("ran 'z = 1'")
        screen.prompt()
        screen.type("\x04")
        assert screen.exit_code() == 0
    kept = home / "XDG_STATE_HOME" / "rmi-agent" / "repl-history"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "dropped" not in kept.read_text()
    with terminal("repl", "--server", STUB) as screen:
        screen.until("Session s1. :help lists commands.")
        screen.prompt()
        screen.type("def\x1b[A")  # what began so
        screen.until("    return 1")
        screen.type("\x1b\r")
        screen.until(r"ran 'def f():\n    return 1")
        screen.prompt()
        screen.type("\x04")
        assert screen.exit_code() == 0


@pytest.mark.slow
def test_cells_are_shown_as_people_like_them(home: Path) -> None:
    with terminal("repl", columns=100) as screen:
        screen.until("Python 3")
        screen.until(":help lists commands.")
        session = "\n".join(screen.lines).split(", session ")[1].split(".")[0]
        screen.prompt()
        screen.until(f" session {session}  20")  # the line below the prompt
        screen.type("1/0\r")
        screen.until("ZeroDivisionError: division by zero")
        assert b"\x1b[96mZeroDivisionError\x1b[0m: division by zero" in screen.raw
        screen.prompt()
        screen.type("import time; x = 3; print('started', flush=True); time.sleep(60)\r")
        screen.until("\nstarted")
        screen.type("\x03")
        screen.until("Interrupted; variables kept.")
        screen.prompt()
        screen.type("x * 7\r")
        screen.until("\n21\n")
        screen.prompt()
        for typed, shown in (
            ("len?", "Docstring: Return the number of items in a container."),
            ("?nothing_here", "\nThere is no nothing_here."),
            ("import textwrap; textwrap", "\n<module 'textwrap'"),
            ("textwrap.dedent??", "Remove any common leading whitespace"),
            ("%who", "textwrap  "),
            ("help(len)", "\nHelp on built-in function len"),
            (r"print('\x1b]2;title\x07\x1b[2J' 'plain\x9b31m')", "\nplain"),
        ):
            screen.type(typed + "\r")
            screen.until(shown)
            screen.prompt()
        assert b"\x1b]" not in screen.raw
        assert "\x9b".encode() not in screen.raw
        screen.type("import matplotlib.pyplot as plt; plt.plot([1]);\r")
        screen.until(".png]")
        screen.prompt()
        screen.type("name = input('Who? ')\r")
        screen.until("\nWho?")
        screen.type("Ada\r")
        screen.prompt()
        assert screen.lines.count("Who? Ada") == 1
        screen.type("name * 2\r")
        screen.until("'AdaAda'")
        screen.prompt()
        saved = home / "my notes.ipynb"
        for typed, said in (
            (":help", ":save FILE.ipynb"),
            (":nothing", "There is no command :nothing"),
            (f":save {saved}", f"cells in {home}"),
            ("%undo", "is undone in its variables"),
            (":undo", "is undone in its variables"),
            ("'name' in globals()", "\nFalse"),
            (":restart", "has a fresh kernel"),
            ("%undo", "nothing to undo"),
        ):
            screen.type(typed + "\r")
            screen.until(said)
            screen.prompt()
        screen.type("\x04")
        assert screen.exit_code() == 0
        assert "Recorded in " in "\n".join(screen.lines)
    sources = [cell.source for cell in nbformat.read(saved, as_version=4).cells]
    assert sources[0] == "1/0" and sources[-1] == "name * 2"
    assert not [source for source in sources if "object_inspect_mime" in source]
    [saved] = (home / "XDG_CACHE_HOME" / "rmi-agent" / "pictures").iterdir()
    assert saved.read_bytes().startswith(b"\x89PNG")
    assert saved.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_a_dumb_terminal_sees_text_alone(home: Path) -> None:
    with terminal("repl", "--server", STUB, TERM="dumb") as screen:
        screen.until("Session s1. :help lists commands.")
        screen.prompt()
        screen.type("def f():\n    return 1\n\n")
        screen.until(r"ran 'def f():\n    return 1")
        screen.type("\x04")
        assert screen.exit_code() == 0
        assert b"\x1b" not in screen.raw


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_the_prompt_works_in_tmux(home: Path) -> None:
    socket = home / "tmux"

    def tmux(*words: str) -> str:
        command = ["tmux", "-S", str(socket), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def until(text: str) -> None:
        ends = time.monotonic() + 60
        while text not in (shown := tmux("capture-pane", "-p", "-S", "-")):
            assert time.monotonic() < ends, shown
            time.sleep(0.05)

    words = [*COMMAND, "repl", "--server", STUB]
    tmux("-f", os.devnull, "new-session", "-d", "-x", "80", "-y", "24", *words)
    try:
        until("Session s1. :help lists commands.")
        tmux("send-keys", "np.lins", "Tab")
        until(">>> np.linspace")
        tmux("send-keys", "Enter")
        until("ran 'np.linspace'")
        tmux("send-keys", "def f():", "Enter", "return 1", "Enter", "Enter")
        until("ran 'def f():\\n    return 1")
        tmux("send-keys", "C-d")
        ends = time.monotonic() + 60
        while tmux_lives(socket):
            assert time.monotonic() < ends
            time.sleep(0.05)
    finally:
        subprocess.run(["tmux", "-S", str(socket), "kill-server"], capture_output=True)


def tmux_lives(socket: Path) -> bool:
    command = ["tmux", "-S", str(socket), "has-session"]
    return subprocess.run(command, capture_output=True).returncode == 0
