"""`rmi-agent run` and `cell` as somebody who sits at a terminal, in any folder, sees them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

if sys.platform == "win32":
    pytest.skip("POSIX terminals", allow_module_level=True)

from tests.client.screens import COMMAND, terminal
from tests.server.conftest import fill

pytestmark = pytest.mark.slow

ASKS = """import getpass, sys
name = input('Name? ')
word = getpass.getpass('Word: ')
breakpoint()
print('Hello', name, len(word), sys.argv, sys.stdin.isatty())
"""
STOPPED = """import sys, time
try:
    print('go', flush=True)
    time.sleep(60)
finally:
    print('cleaning', flush=True)
    time.sleep(3)
    print('cleaned up', flush=True)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is not the projects folder, with the programs of a person."""
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHON_PROJECTS_DIR", str(fill(tmp_path)))
    mine = tmp_path / "mine"
    (mine / "sub").mkdir(parents=True)
    (mine / "asks.py").write_text(ASKS)
    (mine / "stopped.py").write_text(STOPPED)
    (mine / "data.txt").write_text("of the current folder")
    (mine / "sub" / "reads.py").write_text(
        "import sys\nprint(__file__, sys.argv, open('data.txt').read())"
    )
    (mine / "hello_world.py").write_text("print('mine')")
    (mine / "pipe.py").write_text(
        "import sys\nprint(input('? '))\nprint(len(sys.stdin.buffer.read()), sys.stdin.isatty())"
    )
    (mine / "quiet.py").write_text("print('reads nothing')")
    monkeypatch.chdir(mine)
    yield mine


def run(*words: str, stdin: bytes | None = b"") -> tuple[int, str, str]:
    done = subprocess.run([*COMMAND, *words], input=stdin, capture_output=True, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_a_program_asks_at_the_terminal_as_python_does(home: Path) -> None:
    with terminal("run", "asks.py", "-x") as screen:
        screen.until("Name?")
        screen.type("Ada\r")
        screen.until("Word:")
        screen.type("secret\r")
        screen.until("(Pdb)")
        screen.type("p name * 2\r")
        screen.until("'AdaAda'")
        screen.type("c\r")
        assert screen.exit_code() == 0
        text = "\n".join(screen.lines)
        assert "Hello Ada 6 ['asks.py', '-x'] True\nRecorded in" in text
        assert "Name? Ada\nWord:" in text and text.count("Ada\n") == 1
        assert "secret" not in text and "starting" not in text


def test_a_file_runs_in_the_current_folder_and_before_one_of_the_projects(home: Path) -> None:
    code, out, err = run("run", "sub/reads.py")
    path = home / "sub" / "reads.py"
    assert (code, out) == (0, f"{path} ['sub/reads.py'] of the current folder\n"), err
    assert run("run", "hello_world.py", "-q")[:2] == (0, "mine\n")
    os.chdir(home / "sub")
    code, out, err = run("run", "--quiet", str(home / "hello_world.py"))
    assert (code, out, err) == (0, "mine\n", "")
    assert run("run", "hello_world.py")[1].startswith("Hello, World!")


def test_a_missing_file_creates_nothing_and_names_folders_setting_and_the_like(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(home.parent.rglob("*"))
    code, out, err = run("run", "hello_wrold.py")
    assert (code, out) == (1, "")
    for part in (str(home), os.environ["PYTHON_PROJECTS_DIR"], "(PYTHON_PROJECTS_DIR)"):
        assert part in err
    assert "Did you mean hello_world.py?" in err and err.count("\n") == 1
    monkeypatch.setenv("PYTHON_PROJECTS_DIR", str(home.parent / "nowhere"))
    code, out, err = run("run", "sub/raeds.py")
    assert "nowhere, which does not exist" in err and "Did you mean sub/reads.py?" in err
    assert sorted(home.parent.rglob("*")) == before
    code, _, err = run("run", "--sesion", "x", "sub/reads.py")
    assert code == 2 and err.startswith("rmi-agent run has no option --sesion.")
    (home / "-odd.py").write_text("print('odd')")
    assert run("run", "-q", "--", "-odd.py")[:2] == (0, "odd\n")


def test_a_pipe_is_read_by_the_program_as_far_as_it_wants(home: Path) -> None:
    data = b"yes\n" + bytes(range(256)) * 4_000
    code, out, err = run("run", "pipe.py", stdin=data)
    python = subprocess.run([sys.executable, "pipe.py"], input=data, capture_output=True)
    assert (code, out) == (0, python.stdout.decode()), err
    code, out, err = run("run", "pipe.py", stdin=b"")
    assert code == 1 and err.splitlines()[-2] == "EOFError: EOF when reading a line"
    # What it does not read stays for the next one.
    (home / "lines").write_bytes(b"left\n")
    shell = f"{' '.join(COMMAND)} run -q quiet.py; cat"
    with open(home / "lines") as lines:
        done = subprocess.run(shell, shell=True, stdin=lines, capture_output=True, timeout=60)
    assert done.stdout == b"reads nothing\nleft\n"


def test_ctrl_c_lets_the_program_clean_up_and_a_second_one_kills_it(home: Path) -> None:
    with terminal("run", "stopped.py") as screen:
        screen.until("go")
        screen.type("\x03")
        assert screen.exit_code() == 130
        text = "\n".join(screen.lines)
    place = [text.index(part) for part in ("cleaned up", "\nKeyboardInterrupt", "\nInterrupted. ")]
    assert place == sorted(place) and "Interrupted. Recorded in" in text
    (home / "stopped.py").write_text(STOPPED.replace("sleep(3)", "sleep(60)"))
    with terminal("run", "stopped.py") as screen:
        screen.until("go")
        began = time.monotonic()
        screen.type("\x03")
        screen.until("cleaning")
        screen.type("\x03")
        assert screen.exit_code() == 130
        assert time.monotonic() - began < 30
        assert "Killed. Recorded in" in "\n".join(screen.lines)


def test_ctrl_c_at_a_question_interrupts_the_program(home: Path) -> None:
    with terminal("run", "asks.py") as screen:
        screen.until("Name?")
        screen.type("\x03")
        assert screen.exit_code() == 130
        text = "\n".join(screen.lines)
        assert "KeyboardInterrupt" in text and "EOFError" not in text


def test_a_signal_that_ends_the_command_ends_the_program(home: Path) -> None:
    marker = home / "alive"
    (home / "stopped.py").write_text(
        f"import time\nprint('go', flush=True)\ntime.sleep(4)\nopen({str(marker)!r}, 'w')"
    )
    process = subprocess.Popen([*COMMAND, "run", "stopped.py"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"go\n"
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    process.stdout.close()
    time.sleep(4)
    assert not marker.exists()


def test_a_cell_exits_as_it_says_and_names_session_and_notebook(home: Path) -> None:
    for source, code, said in (
        ("import sys; sys.exit(3)", 3, ""),
        ("raise SystemExit", 0, ""),
        ("import sys; sys.exit('so')", 1, "so\n"),
    ):
        assert run("cell", "-q", source) == (code, "", said)
    code, out, err = run("cell", "6 * 7")
    assert (code, out) == (0, "42\n")
    assert err.startswith("Recorded in ") and "\nSession " in err
    with terminal("cell", "x = input('Name? '); x * 2") as screen:
        screen.until("Name?")
        screen.type("Ada\r")
        assert screen.exit_code() == 0
        assert screen.lines[:2] == ["Name? Ada", "'AdaAda'"]


def test_a_pipe_gets_all_of_a_large_output(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "large.py").write_text("for n in range(120_000): print(n, 'x' * 92)")
    python = subprocess.run([sys.executable, "large.py"], capture_output=True, text=True)
    code, out, _ = run("run", "large.py")
    assert (code, len(out)) == (0, len(python.stdout)) and out == python.stdout
    monkeypatch.setenv("RMI_AGENT_OUTPUT_LIMIT", "1000000")
    code, out, err = run("run", "large.py")
    assert code == 130 and python.stdout.startswith(out[:1_000_000])
    assert "\nTo get all of the output, set RMI_AGENT_OUTPUT_LIMIT=0 for this command.\n" in err


def test_ctrl_c_in_a_notebook_names_its_record_which_can_be_replayed(home: Path) -> None:
    cells = [new_code_cell("print('go')"), new_code_cell("import time; time.sleep(60)")]
    nbformat.write(new_notebook(cells=cells), home / "n.ipynb")
    with terminal("run", "n.ipynb") as screen:
        screen.until("go")
        screen.type("\x03")
        assert screen.exit_code() == 130
        text = "\n".join(screen.lines)
    assert "Recorded in" in text and "\nInterrupted.\n" in text  # the path may wrap
    record = next((home.parent).rglob("*-n-ipynb-*.ipynb"))
    code, out, _ = run("replay", "--until", "1", record.name[:15])
    assert code == 0 and f"resumes {record.name}: 1 of 1" in out


def test_the_home_folder_is_not_opened_to_code_in_the_sandbox(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RMI_AGENT_SANDBOX", raising=False)
    for folder, said in ((home, "is your home"), (home / "sub", "contains your home")):
        monkeypatch.setenv("HOME", str(folder))
        code, out, err = run("run", "quiet.py")
        assert (code, out) == (1, "") and said in err
        assert err.endswith("rmi-agent run --no-sandbox FILE\n")
