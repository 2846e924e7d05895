"""What is typed at the prompt: whether it is complete, and what it asks about."""

from __future__ import annotations

import pytest
from rmi_agent.client.terminal import (
    Incomplete,
    completion_context,
    help_request,
    indentation,
    needs_more_lines,
    replacement_start,
)


@pytest.mark.parametrize(
    ("source", "more"),
    [
        ("x = 1", False),
        ("def f():", True),
        ("def f():\n    return 1", True),
        ("def f():\n    return 1\n", False),
        ("(1,", True),
        ("'''a", True),
        ("x = = 1", False),
        ("%who", False),
        ("!ls", False),
        ("len?", False),
        ("await f()", False),
        ("async with x:", True),
        ("%%time", True),
        ("%%time\nx = 1", True),
        ("%%time\nx = 1\n", False),
        ("x = 1\ny = 2", False),
        ("x = 1\ndef f():", True),
    ],
)
def test_a_cell_goes_on_until_it_is_complete(source: str, more: bool) -> None:
    assert Incomplete()(source) is more


@pytest.mark.parametrize(
    ("source", "more"),
    [
        ("x", False),
        ("def f():", True),
        ("def f():\n    return 1", True),
        ("def f():\n    return 1\n    ", False),
        ("x = [", True),
        ("x = [\n    1]", True),
        ("import a\nfor x in a:\n    x", True),
        ("import a\nfor x in a:\n    x\n", False),
        ("x = = 1", False),
        ("'''a\n", True),
    ],
)
def test_enter_runs_a_block_only_behind_an_empty_line(source: str, more: bool) -> None:
    assert needs_more_lines(source, Incomplete()) is more


@pytest.mark.parametrize(
    ("before", "indent"),
    [
        ("x", ""),
        ("def f():", "    "),
        ("def f():\n    x", "    "),
        ("def f():\n    return x", ""),
        ("class A:\n    def f(self):\n        pass", "    "),
        ("    returned = 1", "    "),
    ],
)
def test_a_new_line_is_indented_as_python_is_written(before: str, indent: str) -> None:
    assert indentation(before) == indent


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("?len", ("len", False)),
        ("len?", ("len", False)),
        (" ?? np.linspace ", ("np.linspace", True)),
        ("a.b??", ("a.b", True)),
        ("%who?", ("%who", False)),
        ("größe?", ("größe", False)),
        ("len", None),
        ("?", None),
        ("x = 1?", None),
        ("f(x)?", None),
        ("a.?", None),
        ("print('?')", None),
    ],
)
def test_a_question_mark_asks_about_a_name(source: str, asked: tuple[str, bool] | None) -> None:
    assert help_request(source) == asked


@pytest.mark.parametrize(
    ("code", "values", "start"),
    [
        ("np.li", ["np.linspace", "np.linalg"], 3),
        ("x = pri", ["x = print"], 4),
        ("%ti", ["%time", "%timeit"], 0),
        ("Imp", ["import"], 0),
        ("open('/et", ["open('/etc"], 7),
        ("a\nb.", ["a\nb.c"], 4),
        ("x", [], 0),
    ],
)
def test_a_completion_replaces_the_word_at_the_cursor(
    code: str, values: list[str], start: int
) -> None:
    assert replacement_start(code, values) == start


def test_a_completion_sees_the_last_lines_of_long_code() -> None:
    code = "".join(f"x{i} = {i}\n" for i in range(1000)) + "x99"
    shown = completion_context(code)
    assert len(shown) <= 2000
    assert code.endswith("\n" + shown)
    assert completion_context("short") == "short"
