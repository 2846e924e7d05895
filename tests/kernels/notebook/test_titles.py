"""Titles of notebooks that nobody records any more: only the metadata changes, and trust is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.sign import NotebookNotary
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from rmi_agent.kernels.notebook import Recorder, plain_title, retitle
from rmi_agent.kernels.notebook.recovery import write_pid_file

METADATA = {"rmi_agent": {"session": "abc", "principal": "alice"}, "other": {"π": "kept"}}


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jupyter").mkdir()
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))


def recorded(folder: Path, cells: int = 3) -> Path:
    """A notebook as a recorder leaves it."""
    recorder = Recorder(folder, json.loads(json.dumps(METADATA)))
    for number in range(cells):
        made = new_code_cell(f"'{{\\n{{' + 'é✓'  # {number}")
        recorder.start(made, "title")
        made.outputs = [new_output("stream", text="]}\n{é✓\n")]
        recorder.finish(made, "title")
    if recorder.path is None:
        recorder._file = recorder._new_file("empty")
    recorder.close()
    assert recorder.path is not None
    return recorder.path


def by_jupyter(folder: Path) -> Path:
    """A notebook as Jupyter saves it, with the cells first."""
    made = new_notebook(cells=[new_markdown_cell("# é"), new_code_cell("1")])
    path = folder / "saved.ipynb"
    nbformat.write(made, path)
    return path


@pytest.mark.parametrize("cells", [0, 1, 3])
def test_a_record_keeps_all_but_its_title(tmp_path: Path, cells: int) -> None:
    path = recorded(tmp_path, cells)
    before = json.loads(path.read_bytes())
    retitle(path, "Sales of  2026\n· é")
    after = nbformat.read(path, as_version=4)
    nbformat.validate(after)
    assert after.metadata.rmi_agent.title == "Sales of 2026 · é"
    retitle(path, "")
    assert json.loads(path.read_bytes()) == before
    assert sorted(p.name for p in tmp_path.glob("*.ipynb*")) == [path.name]


def test_a_notebook_that_jupyter_has_saved_has_a_title_too(tmp_path: Path) -> None:
    path = by_jupyter(tmp_path)
    path.chmod(0o640)
    retitle(path, "Mine")
    after = nbformat.read(path, as_version=4)
    assert after.metadata.rmi_agent == {"title": "Mine"}
    assert [cell.source for cell in after.cells] == ["# é", "1"]
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("make", [recorded, by_jupyter])
def test_what_jupyter_trusts_it_trusts_afterwards_and_nothing_else(
    tmp_path: Path, make: Any, trusted: bool
) -> None:
    path = make(tmp_path)

    def read() -> Any:
        return nbformat.read(path, as_version=4)

    with NotebookNotary() as notary:
        if trusted:
            notary.sign(read())
    retitle(path, "another")
    with NotebookNotary() as notary:
        assert notary.check_signature(read()) == trusted


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"cells": 3}', b"[" * 100_000, b'{"cells": [], "metadata": []}']
)
def test_what_is_no_notebook_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.ipynb"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        retitle(path, "x")
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_links_and_notebooks_that_are_being_recorded_are_refused(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    (tmp_path / "link.ipynb").symlink_to(path)
    before = path.read_bytes()
    with pytest.raises(OSError, match=r"."):
        retitle(tmp_path / "link.ipynb", "x")
    write_pid_file(path)
    with pytest.raises(ValueError, match="is being recorded"):
        retitle(path, "x")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ("  a\n\tb  ", "a b"),
        ("\u202eevil\x00\x1b[31m", "evil [31m"),
        ("x" * 500, "x" * 120),
        ("\n" * 10_000_000, ""),
    ],
)
def test_a_title_is_one_printable_line(given: str, title: str) -> None:
    assert plain_title(given) == title
