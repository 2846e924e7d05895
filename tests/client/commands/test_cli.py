"""The `rmi-agent` command: what goes to stdout, what to stderr, and the exit code."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from rmi_agent.cli import main

from tests.server.conftest import fill, http_server, server_env

ROOT = Path(__file__).parents[3]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals and signals")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def server_projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="module")
def server(server_projects: Path) -> Iterator[str]:
    projects = server_projects
    (projects / "both.py").write_text(
        "import sys\nprint('out', sys.argv[1:], sys.stdin.read())\n"
        "print('err', file=sys.stderr)\nsys.exit(5)"
    )
    (projects / "sub").mkdir()
    (projects / "sub/data.txt").write_text("inside")
    (projects / "sub/tool.py").write_text(
        "import sys\nprint(sys.argv[1:], open('data.txt').read())\nsys.exit(4)"
    )
    (projects / "killed.py").write_text("import os\nos.kill(os.getpid(), 9)")
    with http_server(projects, RMI_AGENT_RESPONSE_DEADLINE="2") as (url, _):
        yield f"{url}/mcp"


@pytest.fixture
def command(server: str, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a subcommand against the server: its exit code, stdout and stderr."""

    def run(name: str, *words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([name, "--server", server, *words])
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


@pytest.mark.slow
def test_run_is_the_script_and_leaves_with_its_code(command: Command) -> None:
    code, out, err = command("run", "--stdin", "given", "both.py", "-x", "--y")
    assert (code, out) == (5, "out ['-x', '--y'] given\n")
    assert err.startswith("err\nRecorded in ")
    nbformat.read(err.split("Recorded in ")[1].strip(), as_version=4)


def test_a_module_runs_with_its_arguments_in_a_folder(command: Command) -> None:
    words = ("--cwd", "sub", "-m", "tool", "--timeout", "x", "-m", "--help")
    assert command("run", *words)[:2] == (4, "['--timeout', 'x', '-m', '--help'] inside\n")
    code, out, err = command("run", "-m", "no_such_module_anywhere")
    assert (code, out) == (1, "") and "No module named no_such_module_anywhere" in err
    code, out, err = command("run")
    assert (code, out) == (1, "") and "give a FILE or -m MODULE" in err


def test_stdin_can_be_this_commands_own(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("piped"))
    assert command("run", "--stdin", "-", "both.py")[1] == "out [] piped\n"


def test_a_traceback_goes_to_stderr(command: Command) -> None:
    code, out, err = command("run", "error_test.py")
    assert code == 1
    assert "Traceback" not in out
    assert "ZeroDivisionError" in err


def test_a_killed_script_has_the_shells_exit_code(command: Command) -> None:
    code, _, err = command("run", "killed.py")
    assert code == 137
    assert "The kernel died; variables lost. Its process was ended by SIGKILL." in err


@POSIX
def test_a_session_is_joined_by_jupyters_console(command: Command) -> None:
    session = command("cell", "x = 1")[2].split("Session ")[1].strip()
    code, out, _ = command("attach", "--print", session)
    assert code == 0
    assert out.startswith("jupyter console --existing ")
    assert Path(out.split()[-1]).is_file()
    code, _, err = command("attach", "nosuchsession000")
    assert (code, err.splitlines()[0].partition(".")[0]) == (
        1,
        "No open session has the ID 'nosuchsession000'",
    )


@pytest.mark.slow
def test_a_notebook_runs_with_parameters_and_shows_its_output_once(
    command: Command, server_projects: Path
) -> None:
    alpha = new_code_cell("alpha, name = 1, ''", metadata={"tags": ["parameters"]})
    cells = [alpha, *(new_code_cell(f"print({n}, alpha, name)") for n in range(8))]
    fails = new_code_cell("import sys; print('err', file=sys.stderr); 1/0")
    cells += [new_code_cell("alpha / 2"), fails, new_code_cell("print('never')")]
    nbformat.write(new_notebook(cells=cells), server_projects / "p.ipynb")
    code, out, err = command("run", "p.ipynb", "alpha=3", "name=Ada")
    assert out == "".join(f"{n} 3 Ada\n" for n in range(8)) + "1.5\n"
    assert code == 1
    assert err.startswith("err\n") and err.count("ZeroDivisionError: division by zero") == 1
    assert "p.ipynb stopped at its cell 11, which is cell 12 here" in err
    assert "Recorded in " in err and "read_output(" in err
    code, out, err = command("run", "--until", "3", "p.ipynb")
    assert (code, out) == (0, "0 1 \n1 1 \n")
    code, out, err = command("run", "p.ipynb", "alpha")
    assert (code, out) == (1, "") and "write NAME=VALUE" in err
    code, out, err = command("run", "p.ipynb", "--until=3")
    assert (code, out) == (1, "") and "options come before the notebook" in err


@pytest.mark.slow
def test_replay_says_whether_a_record_still_gives_the_same(
    command: Command, tmp_path: Path
) -> None:
    slow = new_code_cell("import time; time.sleep(3)")  # longer than one call may take
    for given, expected in (("42\n", 0), ("41\n", 1)):
        cell = new_code_cell("print(6 * 7)", outputs=[new_output("stream", text=given)])
        path = tmp_path / f"{expected}.ipynb"
        nbformat.write(new_notebook(cells=[slow, cell]), path)
        code, out, err = command("replay", str(path))
        assert (code, err) == (expected, "")
        assert f"resumes {path.name}: 2 of 2 cells were rerun" in out
        assert ("-41" in out) == bool(expected)
    code, out, err = command("replay", "nowhere.ipynb")
    assert (code, out) == (1, "") and "No notebook 'nowhere.ipynb'" in err
    (tmp_path / "broken.ipynb").write_bytes(b"\xff{")
    code, _, err = command("replay", str(tmp_path / "broken.ipynb"))
    assert code == 1 and "can't be read" in err


def test_a_refusal_is_one_clear_line(command: Command) -> None:
    code, out, err = command("cell", "-s", "nope", "1")
    assert (code, out) == (1, "")
    assert err.startswith("No open session has the ID 'nope'. `rmi-agent sessions` shows ")
    code, out, err = command("run", "nope.py")
    assert (code, out) == (1, "")
    assert err.startswith(
        "Error: File not found: nope.py. It was looked for in the projects folder"
    )
    assert err.count("\n") == 1


def test_a_timeout_has_the_exit_code_of_the_timeout_command(command: Command) -> None:
    code, out, err = command("cell", "--timeout", "0.5", "print('a')\nimport time; time.sleep(9)")
    assert (code, out) == (124, "a\n")
    assert "Timed out after 0.5 s" in err


def test_a_cell_shows_its_value_and_its_session_can_be_used_again(command: Command) -> None:
    code, out, err = command("cell", "x = 20\nx + 1")
    assert (code, out) == (0, "21\n")
    session = err.split("Session ")[1].strip()
    assert command("cell", "--session", session, "x * 2")[1] == "40\n"
    assert session in command("sessions")[1]


@pytest.mark.slow
def test_output_longer_than_the_deadline_and_the_budget_arrives_once(command: Command) -> None:
    code, out, _ = command(
        "cell", "import time\nfor i in range(9000): print(i)\ntime.sleep(2.5)\nprint('end')"
    )
    assert (code, out) == (0, "".join(f"{i}\n" for i in range(9000)) + "end\n")


def test_check_reports_each_step(command: Command) -> None:
    code, out, _ = command("check")
    assert code == 0
    assert [line[:2] for line in out.splitlines()] == ["ok"] * 7


def test_no_server_there_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["check", "--server", "http://127.0.0.1:9/mcp"])
    assert left.value.code == 1
    assert "Can't talk to http://127.0.0.1:9/mcp" in capsys.readouterr().err


def test_a_pipe_into_the_repl_runs_each_complete_cell(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "x = 5\nfor i in range(2):\n    print('row', i)\n\n\nx + 1\n%who\nawait __import__('asyncio').sleep(0)\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(source))
    code, out, err = command("repl")
    assert code == 0, err
    assert out.splitlines()[:3] == ["row 0", "row 1", "6"]
    assert "session " in err and ":help lists commands" in err and "\nRecorded in " in err


@pytest.mark.slow
def test_what_a_cell_asks_is_read_from_this_commands_input(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Ada\n"))
    assert command("cell", "print(input('Name? ') * 2)")[:2] == (0, "Name? Ada\nAdaAda\n")
    code, out, err = command("cell", "input('Name? ')")  # the input is at its end
    assert (code, out) == (1, "Name? ")
    assert "EOFError: the user was asked and did not answer" in err
    monkeypatch.setattr("sys.stdin", io.StringIO("name = input('Name? ')\nAda\nname * 2\n"))
    code, out, err = command("repl")
    assert (code, out.splitlines()) == (0, ["Name? Ada", "'AdaAda'"]), err


@POSIX
@pytest.mark.slow
def test_ctrl_c_in_run_stops_the_script(server: str) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "rmi_agent.cli",
            "cell",
            "--server",
            server,
            "import time; print('go', flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130


def test_the_readme_command_prints_the_output_and_the_notebook(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rmi_agent.cli", "run", "hello_world.py"],
        env=server_env(fill(tmp_path)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Hello, World!\nThis is a test Python script.\n"
    path = Path(done.stderr.strip().removeprefix("Recorded in "))
    assert path.parent == tmp_path / "notebooks"
    nbformat.read(path, as_version=4)


@pytest.mark.slow
def test_the_client_script_of_the_seed_works(server: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "client" / "mcp_client.py"),
            "--server",
            server,
            "--file",
            "calculator.py",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "run_python" in done.stdout
    assert "10 + 5 = 15" in done.stdout


@pytest.mark.slow
@POSIX
@pytest.mark.parametrize("name", ["cell", "run"])
def test_something_is_shown_at_once_and_erased_when_there_is_output(name: str, server: str) -> None:
    from tests.client.screens import terminal

    what = {"cell": "print(6 * 7)", "run": "hello_world.py"}[name]
    with terminal(
        name, "--server", server, what, XDG_STATE_HOME=os.environ["XDG_STATE_HOME"]
    ) as it:
        it.until("starting…")
        assert it.exit_code() == 0
        assert "starting" not in "\n".join(it.lines)
        assert it.lines[0].startswith(("42", "Hello, World!"))


@pytest.mark.slow
@POSIX
def test_a_dumb_terminal_and_help_show_no_start(server: str) -> None:
    from tests.client.screens import terminal

    state = os.environ["XDG_STATE_HOME"]
    for words in (("cell", "--server", server, "1"), ("run", "--help")):
        with terminal(*words, TERM="dumb", XDG_STATE_HOME=state) as it:
            assert it.exit_code() == 0
            assert b"starting" not in it.raw
