"""The prompt's own commands: which texts are one, and saving the session."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from rmi_agent.client.commands import repl
from rmi_agent.client.commands.repl import Repl
from rmi_agent.client.commands.repl_commands import COMMAND, save_notebook
from rmi_agent.client.errors import tool_errors
from rmi_agent.client.terminal import Questions


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        (":save a b.ipynb", ("save", "", "a b.ipynb")),
        ("  :save! x.ipynb \n", ("save", "!", "x.ipynb ")),
        (":help", ("help", "", None)),
        (":", ("", "", None)),
        ("x[:1]", None),
        (":save x\nprint(1)", None),
        ("if x:", None),
    ],
)
def test_a_command_is_a_line_of_its_own(source: str, parts: tuple[str | None, ...] | None) -> None:
    found = COMMAND.fullmatch(source)
    assert (found.groups() if found else None) == parts


def session() -> str:
    cells = [new_code_cell(f"cell {n}") for n in (1, 2, 3, 4)]
    for number, cell in enumerate(cells, 1):
        cell.metadata.rmi_agent = {"cell": number}
    cells[-1].metadata.rmi_agent.undone = True
    return json.dumps(new_notebook(cells=[*cells, new_code_cell("é")]))


def test_a_session_is_saved_without_what_the_prompt_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = save_notebook(session(), "notes.ipynb", {1, 3}, replace=False)
    assert said == f"Saved 2 cells in {tmp_path / 'notes.ipynb'}"
    read = nbformat.read("notes.ipynb", as_version=4)
    assert [cell.source for cell in read.cells] == ["cell 2", "é"]
    with pytest.raises(ValueError, match=r"it exists; :save! notes.ipynb replaces it\."):
        save_notebook(session(), "notes.ipynb", (), replace=False)
    assert save_notebook(session(), "notes.ipynb", (), replace=True).startswith("Saved 4 cells")
    for name, why in (
        ("", "Name a notebook"),
        ("notes.py", "Name a notebook"),
        ("no/where.ipynb", "can't be written: No such file or directory."),
        ("a\0b.ipynb", "can't be written: "),
        (f"{'x' * 300}.ipynb", "can't be written: File name too long."),
    ):
        with pytest.raises(ValueError, match=why):
            save_notebook(session(), name, (), replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.ipynb"]


def test_a_session_that_has_ended_meanwhile_is_no_failure_of_the_prompt(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As when nobody has typed anything for half an hour."""

    class Gone:
        """A client, and a portal to it, whose session has ended."""

        def close_session(self, session_id: str) -> None:
            raise tool_errors()[-1](f"Session {session_id} has ended: nobody used it for 1800 s.")

        def call(self, work: Callable[..., Any], *arguments: Any) -> Any:
            return work(*arguments)

    def greet(prompt: Repl) -> bool:
        prompt._session = "s"
        return True

    monkeypatch.setattr(Repl, "_greet", greet)
    monkeypatch.setattr(repl, "can_edit", lambda: False)
    monkeypatch.setattr(repl, "read_cell", lambda: None)
    gone: Any = Gone()
    assert Repl(gone, gone, None, Questions()).run() == 0
    assert capfd.readouterr().err == ""
