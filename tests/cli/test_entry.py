"""`rmi-agent` and `rmi-agent-mcp-server` as a person meets them first: help, mistakes, completion."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rmi_agent.cli import app, main
from rmi_agent.cli.table import COMMANDS
from rmi_agent.server.commands import app as server_app


def help_of(*command: str) -> str:
    text = io.StringIO()
    app.help_print(command, console=Console(file=text, width=100))
    return text.getvalue()


def test_the_help_lists_all_commands_and_ends_with_examples() -> None:
    text = help_of()
    for name in COMMANDS:
        assert f" {name} " in text
    for name in ((), *COMMANDS, ("tokens", "list")):
        command = (name,) if isinstance(name, str) else name
        last = help_of(*command).partition("Examples:\n")[2].splitlines()
        assert last and all(line.startswith("  ") for line in last), command


def test_every_command_of_the_server_is_one_here() -> None:
    assert {name for name in server_app if not name.startswith("-")} <= COMMANDS.keys()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu", "x.py"], "rmi-agent run x.py"),
        (["help"], "rmi-agent --help"),
        (["--transport", "http"], "rmi-agent serve --transport http"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_says_the_right_one(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    captured = capsys.readouterr()
    assert (left.value.code, captured.out) == (2, "")
    assert captured.err.endswith(f"{said}\n")


def test_the_servers_program_sends_a_person_to_the_right_one() -> None:
    code = "import sys; sys.argv = ['x', 'run', 'a.py']; from rmi_agent.cli import server_main; server_main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "run is a command of rmi-agent: rmi-agent run a.py\n"


@pytest.mark.skipif(sys.platform == "win32", reason="bash")
def test_tab_completes_commands_files_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit) as left:
        main(["--install-completion", "--shell", "bash"])
    assert not left.value.code
    script = tmp_path / ".local/share/bash-completion/completions/rmi-agent"
    assert str(script) in capsys.readouterr().out
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "sessions" in script.read_text()
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "plot.py").touch()
    (tmp_path / "here.py").touch()
    monkeypatch.setenv("PYTHON_PROJECTS_DIR", str(tmp_path / "p"))
    monkeypatch.chdir(tmp_path)
    for word, found in (("pl", "plot.py"), ("he", "here.py"), ("p", "p/"), ("zz", "")):
        with pytest.raises(SystemExit):
            main(["__complete", "run", word])
        offered = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
        assert (found in offered) if found else not [x for x in offered if x.startswith("zz")]


def test_the_usage_names_what_can_be_left_out() -> None:
    for command, named in (
        ("run", "FILE [ARGS...]"),
        ("chat", "[QUESTION]"),
        ("show", "[SESSION]"),
    ):
        assert help_of(command).splitlines()[0].count(named) == 1


@pytest.mark.parametrize("program", ["rmi-agent", "rmi-agent-mcp-server"])
def test_a_refusal_begins_with_the_program_that_was_typed(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{program}", "install"])
    with pytest.raises(SystemExit) as left:
        app(["install"])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(f"{program}: name one of claude-desktop, ")
