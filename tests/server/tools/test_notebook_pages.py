"""Notebooks in parts that fit."""

from __future__ import annotations

import json
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from rmi_agent.server.tools.notebook_pages import json_size, pages, whole_or_cut

CELL, OUTPUT = new_code_cell(""), new_output("display_data")  # each new one is validated


def notebook(*cells: Any) -> str:
    return nbformat.writes(nbformat.from_dict(new_notebook(cells=list(cells))))


def test_a_small_notebook_is_unchanged() -> None:
    text = notebook(new_code_cell("1"))
    assert whole_or_cut(text, 10_000, "s") == text


@pytest.mark.parametrize(
    "cells",
    [
        [new_code_cell("x" * 100_000)],
        [{**CELL, "id": f"cell-{number}", "source": str(number)} for number in range(2_000)],
        [new_code_cell("", outputs=[new_output("stream", text='"' * 100_000)])],
        [new_code_cell("", outputs=[new_output("error", traceback=["e" * 60_000] * 3)])],
        [{**CELL, "outputs": [{**OUTPUT, "data": {f"a/{n}": "x"}} for n in range(999)]}],
    ],
    ids=["source", "cells", "stream", "error", "outputs"],
)
def test_whatever_is_large_a_valid_notebook_fits(cells: list[Any]) -> None:
    text = notebook(*cells)
    cut = whole_or_cut(text, 20_000, "s")
    nbformat.validate(nbformat.reads(cut, as_version=4))
    assert json_size(cut) <= 20_000
    assert "".join(pages(text, 20_000)) == text
    assert json.loads(cut)["metadata"]["rmi_agent"]["pages"] == len(pages(text, 20_000))


def test_no_page_is_larger_than_its_limit() -> None:
    text = '"\n\U0001f600é' * 10_000
    assert max(map(json_size, pages(text, 999))) <= 999 and "".join(pages(text, 999)) == text
