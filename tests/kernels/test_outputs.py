"""Folding messages into a cell."""

from __future__ import annotations

from typing import Any

import pytest
from nbformat.v4 import new_code_cell
from rmi_agent.kernels.outputs import Outputs
from rmi_agent.kernels.terminal_text import StreamText, fold_line


def message(kind: str, **content: Any) -> dict[str, Any]:
    return {"header": {"msg_type": kind}, "content": content}


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain", "plain"),
        ("a\rb", "b"),
        ("abc\rX", "Xbc"),
        ("10%\r100%", "100%"),
        ("abc\b\bX", "aXc"),
        ("\b\bx", "x"),
        ("a\r\r\rb", "b"),
        ("50%\x1b[K\r99%", "99%"),
        ("", ""),
    ],
)
def test_a_line_looks_as_on_a_terminal(line: str, shown: str) -> None:
    assert fold_line(line) == shown


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_the_fold_does_not_depend_on_how_the_text_was_cut_up(size: int) -> None:
    text = "start\r\nbar  0%\rbar 50%\rbar 99%\ndone\nopen\rend"
    stream = StreamText()
    for start in range(0, len(text), size):
        stream.append(text[start : start + size])
    assert stream.text == "start\nbar 99%\ndone\nendn"


def test_settled_text_only_ever_grows() -> None:
    stream, seen = StreamText(), ""
    for piece in ["a\n", "50%", "\r99%", "\rdone\n", "tail"]:
        stream.append(piece)
        assert stream.settled.startswith(seen.replace("50%", "")) or "50%" in seen
        seen = stream.settled
    assert stream.text == "a\ndone\ntail"


def test_an_endless_progress_line_stays_small() -> None:
    stream = StreamText()
    for number in range(20_000):
        stream.append(f"\r{number:>8}")
    assert stream.text == "   19999"
    assert len(stream._row) < 10_000


def test_streams_join_and_keep_their_order_around_displays() -> None:
    outputs = Outputs(new_code_cell())
    for kind, content in [
        ("stream", {"name": "stdout", "text": "a"}),
        ("stream", {"name": "stderr", "text": "E"}),
        ("stream", {"name": "stdout", "text": "b"}),
        ("display_data", {"data": {"text/plain": "shown"}, "metadata": {}}),
        ("stream", {"name": "stdout", "text": "c"}),
    ]:
        outputs.fold(message(kind, **content))
    cell = outputs.settle()
    assert [o.get("text", "shown") for o in cell.outputs] == ["ab", "E", "shown", "c"]


def test_a_lone_surrogate_becomes_writable() -> None:
    outputs = Outputs(new_code_cell())
    outputs.fold(message("stream", name="stdout", text="a\ud800b"))
    outputs.fold(message("display_data", data={"text/plain": "\udcff"}, metadata={"k": "\ud800"}))
    str(outputs.settle()).encode()


def test_a_bundle_of_odd_types_becomes_valid() -> None:
    import nbformat
    from nbformat.v4 import new_notebook

    outputs = Outputs(new_code_cell())
    bundle = {"text/plain": 5, "application/json": {"a": [1]}, "text/html": ["<b>", "x"]}
    outputs.fold(message("display_data", data=bundle, metadata={}))
    nbformat.validate(new_notebook(cells=[outputs.settle()]))


def test_the_limit_is_told_once_and_then_nothing_is_taken_in() -> None:
    told: list[int] = []
    outputs = Outputs(new_code_cell(), limit=10, on_limit=lambda: told.append(1))
    for _ in range(5):
        outputs.fold(message("stream", name="stdout", text="x" * 8))
    assert told == [1]
    assert len(outputs.settle().outputs[0].text) == 16
    assert outputs.size == 40
