"""What is run of a notebook's file, whatever is in it, and where its parameters go."""

from __future__ import annotations

import ast
import json
import math
from typing import Any

import nbformat
import nbformat.v3
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell
from rmi_agent.kernels.notebook import Step, steps_of
from rmi_agent.kernels.notebook.parameters import code_of


def tagged(source: str, *tags: str) -> nbformat.NotebookNode:
    return new_code_cell(source, metadata={"tags": list(tags)})


def read(*cells: Any, metadata: Any = None, **given: Any) -> tuple[Step, ...]:
    notebook = new_notebook(cells=list(cells), metadata=metadata or {})
    parameters = given.pop("parameters", {})
    return steps_of(json.dumps(notebook), parameters, **given).steps


def ran(steps: tuple[Step, ...]) -> list[tuple[int, str]]:
    return [(step.number, step.cell.source) for step in steps if step.copied is None]


def test_cells_run_in_order_and_the_others_are_copied() -> None:
    steps = read(
        new_markdown_cell("# Title"),
        new_code_cell("x", outputs=[new_output("stream", text="old")]),
        tagged("1/0", "skip-execution"),
        tagged("1/0", "raises-exception"),
        new_code_cell("  \n"),
        new_raw_cell("raw"),
    )
    assert ran(steps) == [(2, "x"), (4, "1/0")]
    assert [step.may_fail for step in steps] == [False, False, False, True, False, False]
    assert steps[1].cell.outputs == []
    copied = [json.loads(step.copied) for step in steps if step.copied is not None]
    assert [cell["cell_type"] for cell in copied] == ["markdown", "code", "code", "raw"]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["top", "rest"], ["# Parameters\na = 1", "top", "rest"]),
        ([("a = 0", "parameters"), "rest"], ["a = 0", "# Parameters\na = 1", "rest"]),
        (
            [("a = 0", "parameters"), "b", ("a = 9", "injected-parameters"), "rest"],
            ["a = 0", "b", "# Parameters\na = 1", "rest"],
        ),
    ],
    ids=["on top", "after the tagged cell", "instead of the last ones"],
)
def test_parameters_are_where_papermill_puts_them(cells: list[Any], expected: list[str]) -> None:
    made = [new_code_cell(c) if isinstance(c, str) else tagged(*c) for c in cells]
    steps = read(*made, parameters={"a": 1})
    assert [source for _, source in ran(steps)] == expected
    mine = next(s.cell for s in steps if s.cell.source.startswith("# Param"))
    assert mine.metadata.tags == ["injected-parameters"]


VALUES: dict[str, Any] = {
    "text": 'it\'s "quoted"\n\\ \0 \ud800 é',
    "numbers": [1, -2.5, 10**400, True, None],
    "nested": {"a b": [{"c": {}}], "nan": "nan"},
}


def test_values_become_python_that_gives_the_same_values() -> None:
    found: dict[str, Any] = {}
    exec(code_of(VALUES), found)
    assert {name: found[name] for name in VALUES} == VALUES
    source = code_of({"a": math.nan, "b": [math.inf, -math.inf]})
    assert source == "# Parameters\na = float('nan')\nb = [float('inf'), float('-inf')]"
    assert ast.parse(source)


@pytest.mark.parametrize("name", ["", "a b", "1a", "class", "a.b", "a=1;b", "a\nimport os"])
def test_what_is_no_name_is_no_parameter(name: str) -> None:
    with pytest.raises(ValueError, match="no name of Python's"):
        code_of({name: 1})


def test_a_parameter_that_the_notebook_does_not_set_is_noted() -> None:
    notebook = new_notebook(cells=[tagged("a = 1\nb: int = 2", "parameters")])
    text = json.dumps(notebook)
    assert steps_of(text, {"a": 1, "b": 2}).notes == ()
    assert "misspelt: alpha" in steps_of(text, {"alpha": 1}).notes[0]
    assert "No cell is tagged" in steps_of(json.dumps(new_notebook()), {"a": 1}).notes[0]


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("\0\x01", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "nbformat is missing"),
        ('{"cells": []}', "nbformat is missing"),
        ('{"nbformat": 4}', "no list of cells"),
        ('{"nbformat": 4, "cells": {}}', "no list of cells"),
        ('{"nbformat": 4, "cells": [1]}', "cell 1 is not a JSON object"),
        ('{"nbformat": 4, "cells": [{"source": 7}]}', "source of its cell 1 is not text"),
        ('{"nbformat": 5, "cells": []}', "version 5"),
        ('{"nbformat": 3, "worksheets": 7}', "version 3, and broken"),
    ],
)
def test_what_is_no_notebook_is_said_to_be_none(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        steps_of(text, {})


@pytest.mark.parametrize(
    "cell",
    [
        {},
        {"cell_type": "code"},
        {"cell_type": "code", "source": None, "metadata": None},
        {"cell_type": "code", "source": ["a\n", "b"], "metadata": {"tags": 7}, "outputs": 7},
        {"cell_type": "code", "source": "x", "id": "not an id!", "metadata": {"a": deep(300)}},
        {"cell_type": "code", "source": "", "outputs": [{"output_type": "stream"}, 7]},
        {"cell_type": "what", "source": "\ud800", "attachments": []},
    ],
)
def test_a_strange_cell_is_recorded_as_a_valid_one(cell: dict[str, Any]) -> None:
    text = json.dumps({"nbformat": 4, "nbformat_minor": 2, "metadata": 7, "cells": [cell, cell]})
    if cell.get("source", "") is None:
        with pytest.raises(ValueError, match="not text"):
            steps_of(text, {})
        return
    steps = steps_of(text, {}).steps
    cells = [json.loads(s.copied) if s.copied is not None else s.cell for s in steps]
    nbformat.validate(nbformat.from_dict(new_notebook(cells=cells)))
    assert cells[0]["id"] != cells[1]["id"]


def test_a_strange_cell_leaves_the_others_as_they_are() -> None:
    cells = [
        {"cell_type": "code", "source": "1", "metadata": {"tags": tags, "keep": 1}}
        for tags in (["a,b", "ok"], ["ok"])
    ]
    first, second = steps_of(json.dumps({"nbformat": 4, "cells": cells}), {}).steps
    assert first.cell.metadata == {"tags": ["ok"]}
    assert second.cell.metadata == {"tags": ["ok"], "keep": 1}


def test_cells_without_number_are_refused_before_they_are_checked() -> None:
    with pytest.raises(ValueError, match="200,000 cells, more than 10,000"):
        steps_of(json.dumps({"nbformat": 4, "cells": [{"cell_type": "code"}] * 200_000}), {})


def test_outputs_of_cells_that_do_not_run_are_kept() -> None:
    output = new_output("stream", text="kept")
    cell = new_code_cell("1", outputs=[output], metadata={"tags": ["skip-execution"]})
    (step,) = read(cell)
    assert step.copied is not None and json.loads(step.copied)["outputs"] == [output]


def test_the_record_of_a_former_run_is_dropped() -> None:
    metadata = {"rmi_agent": {"cell": 1}, "papermill": {"status": "x"}, "execution": {}, "keep": 1}
    (step,) = read(new_code_cell("1", metadata=metadata))
    assert step.cell.metadata == {"keep": 1}


def test_an_old_format_is_converted() -> None:
    cells = [nbformat.v3.new_code_cell("print 1"), nbformat.v3.new_text_cell("markdown", "# a")]
    old = nbformat.v3.new_notebook(worksheets=[nbformat.v3.new_worksheet(cells=cells)])
    steps = steps_of(nbformat.v3.writes_json(old), {}).steps
    assert ran(steps) == [(1, "print 1")] and len(steps) == 2


def test_until_counts_all_cells() -> None:
    cells = [new_markdown_cell("a"), new_code_cell("b"), new_code_cell("c")]
    assert ran(read(*cells, until=2)) == [(2, "b")]
    with pytest.raises(ValueError, match="3 cells, so until=4 is past its end"):
        read(*cells, until=4)


def test_parameters_are_for_python() -> None:
    metadata = {"kernelspec": {"language": "R", "name": "ir", "display_name": "R"}}
    with pytest.raises(ValueError, match="it is in r, and"):
        read(new_code_cell("1"), metadata=metadata, parameters={"a": 1})
