"""Folding messages into a cell."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell
from rmi_agent.kernels import StreamText
from rmi_agent.kernels.inside.messages import cut_content
from rmi_agent.kernels.process import RawOutput
from rmi_agent.kernels.process.output_pipes import LATE
from rmi_agent.kernels.protocol import Displays, Outputs, in_parts, memory_of
from rmi_agent.kernels.protocol.cleaning import DEEPEST
from rmi_agent.kernels.protocol.outputs import OUTPUTS_MOST
from rmi_agent.kernels.protocol.terminal_text import WIDTH
from rmi_agent.kernels.protocol.weighing import HELD_MOST, unpacked, weight_of


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
        ("loading\r\x1b[Kdone", "done"),
        ("loading\x1b[2K\rdone", "done"),
        ("abcdef\b\b\x1b[0K", "abcd"),
        ("abc\r\x1b[1KX", "Xbc"),
        ("a\x1b[31mb", "a\x1b[31mb"),
        ("a\x1b[", "a\x1b["),
    ],
)
def test_a_line_looks_as_on_a_terminal(line: str, shown: str) -> None:
    text = StreamText()
    text.append(line)
    assert text.text == shown


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_the_fold_does_not_depend_on_how_the_text_was_cut_up(size: int) -> None:
    text = "start\r\nbar  0%\rbar 50%\rbar 99%\ndone\nopen\rend"
    stream = StreamText()
    for start in range(0, len(text), size):
        stream.append(text[start : start + size])
    assert stream.text == "start\nbar 99%\ndone\nendn"


def reference(text: str) -> str:
    """What a terminal makes of it, character by character."""
    rows: list[list[str]] = [[]]
    column = 0
    while text:
        row = rows[-1]
        if text[0] == "\n":
            rows.append([])
            column = 0
        elif text[0] == "\r":
            column = 0
        elif text[0] == "\b":
            column = max(0, column - 1)
        elif text[:3] == "\x1b[K":
            del row[column:]
            text = text[2:]
        elif text[:4] == "\x1b[2K":
            row.clear()
            column = 0
            text = text[3:]
        else:
            row[column : column + 1] = [text[0]]
            column += 1
        text = text[1:]
    return "\n".join(map("".join, rows))


PIECES = st.lists(st.sampled_from(["a", "bc", "é", "😀", "\n", "\r", "\b", "\r\n"]), max_size=30)
ERASING = st.lists(
    st.sampled_from(["a", "bcd", "\r", "\b", "\n", "\x1b[K", "\x1b[2K"]), max_size=30
)


@given(pieces=PIECES | ERASING, cuts=st.lists(st.integers(1, 5), min_size=1))
def test_text_looks_as_a_terminal_shows_it_however_it_was_cut_up(
    pieces: list[str], cuts: list[int]
) -> None:
    text, stream, done, number = "".join(pieces), StreamText(), 0, 0
    before = ""
    while done < len(text):
        stream.append(text[done : done + cuts[number % len(cuts)]])
        done, number = done + cuts[number % len(cuts)], number + 1
        settled = stream.settled_from(0)
        assert settled.startswith(before)  # what is settled never changes
        assert len(settled) == stream.settled_size
        for start in (0, 1, len(before), len(settled), len(settled) + 1):
            assert stream.settled_from(start) == settled[start:]
        assert stream.settled == settled + stream.pending
        before = settled
    assert stream.text == reference(text)
    assert stream.size == len(text)
    assert stream.finish() == stream.settled_from(0) == reference(text)


def test_settled_text_is_read_from_any_place_across_chunks() -> None:
    stream, text = StreamText(), ""
    for number in range(30_000):
        stream.append(line := f"line {number}\r\n" if number % 3 else f"old\rline {number}\n")
        text += line.replace("\r\n", "\n").replace("old\r", "")
    assert stream.settled_size == len(text)
    for start in (0, 1, 65_535, 65_536, 65_537, 200_000, len(text) - 1, len(text)):
        assert stream.settled_from(start) == text[start:]


def test_a_row_wraps_where_a_terminal_is_full() -> None:
    stream = StreamText()
    stream.append("x" * 2 * WIDTH + "yy\rz")
    assert stream.settled_size == 2 * WIDTH
    assert stream.text == "x" * 2 * WIDTH + "zy"


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "ab\b" * 350_000 + "\n",
        "x" * 3_000_000 + "\ra" * 500_000,
        "y" * (WIDTH - 1) + "\b\x1b[Kab\r" * 200_000,
        ("x" * 10_000 + "\r") * 300,
    ],
    ids=["backspaces", "returns", "erases", "long rows"],
)
def test_folding_costs_what_there_is_to_fold(text: str) -> None:
    """Quadratic, these took from ten seconds to many minutes."""
    stream = StreamText()
    began = time.process_time()
    for start in range(0, len(text), 65_536):
        stream.append(text[start : start + 65_536])
    assert len(stream.text) <= len(text)
    assert time.process_time() - began < 8


@pytest.mark.slow
def test_a_line_without_an_end_costs_what_is_added() -> None:
    stream = StreamText()
    began = time.process_time()
    for _ in range(100_000):
        stream.append("x" * 100)
    assert len(stream.text) == 10_000_000
    assert time.process_time() - began < 8


def test_an_endless_progress_line_stays_small() -> None:
    stream = StreamText()
    for number in range(20_000):
        stream.append(f"\r{number:>8}")
    assert stream.text == "   19999"
    assert len(stream._row) == 8


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
    assert outputs.left_out.startswith("Left out: 24 bytes beyond RMI_AGENT_OUTPUT_LIMIT (10).")


def sent(kind: str, **content: Any) -> dict[str, Any]:
    """A message that was weighed when it came, and parsed if it was not too much."""
    raw = json.dumps(content).encode()
    weight = weight_of(raw)
    parsed = {} if weight.too_much else json.loads(raw)
    return {**message(kind, **parsed), "weight": weight}


FLOODS: dict[str, dict[str, Any]] = {
    "JSON": {"data": {"application/json": [1] * 200_000}},
    "objects": {"data": {"application/json": [{}] * 50_000}},
    "metadata": {"data": {}, "metadata": {"a": ["b"] * 100_000}},
    "keys": {"data": {"k" * 500_000: ""}},
    "names": {"data": {}, "transient": {"display_id": "d" * 500_000}},
}


@pytest.mark.slow
@pytest.mark.parametrize("content", FLOODS.values(), ids=FLOODS)
def test_what_is_not_text_counts_as_it_was_sent(content: dict[str, Any]) -> None:
    told: list[int] = []
    outputs = Outputs(new_code_cell(), limit=1_000_000, on_limit=lambda: told.append(1))
    for _ in range(20):
        outputs.fold(sent("display_data", **content))
    assert told == [1]
    assert outputs.size == 20 * len(json.dumps(content))


@pytest.mark.parametrize("kind", ["comm_open", "comm_msg", "update_display_data", "nonsense"])
def test_messages_that_show_nothing_count(kind: str) -> None:
    outputs = Outputs(new_code_cell())
    outputs.fold(sent(kind, data={"x": [1] * 1000}))
    assert outputs.size > 2000
    assert outputs.settle().outputs == []


@pytest.mark.slow
def test_what_would_take_too_much_memory_is_left_out_and_said_so() -> None:
    outputs = Outputs(new_code_cell())
    for _ in range(20):
        outputs.fold(sent("display_data", data={"application/json": [[]] * 50_000}))
    kept = outputs.settle().outputs
    assert 0 < len(kept) < 10
    assert f"Outputs left out: {20 - len(kept)}" in outputs.left_out


@pytest.mark.slow
def test_an_update_takes_the_place_of_what_it_replaces() -> None:
    outputs = Outputs(new_code_cell())
    for number in range(60):
        outputs.fold(
            sent(
                "update_display_data" if number else "display_data",
                data={"application/json": [number] * 50_000},
                transient={"display_id": "bar"},
            )
        )
    assert outputs.left_out == ""
    assert outputs.settle().outputs[0].data["application/json"][0] == 59


@pytest.mark.parametrize("omitted", [-2_000_000, "many", 1e9, None, [1]])
def test_a_forged_omission_makes_no_room(omitted: Any) -> None:
    outputs = Outputs(new_code_cell())
    outputs.fold(message("stream", name="stdout", text="x", rmi_agent_omitted=omitted))
    assert outputs.size == 1


def test_a_cell_has_so_many_outputs_and_no_more() -> None:
    outputs = Outputs(new_code_cell())
    for _ in range(OUTPUTS_MOST + 100):
        outputs.fold(sent("display_data", data={}, metadata={}))
    outputs.stream("stdout", "text still comes")
    assert len(outputs.settle().outputs) == OUTPUTS_MOST + 1
    assert "Outputs left out: 100" in outputs.left_out


@pytest.mark.slow
def test_clearing_frees_what_was_shown_and_forgets_its_names() -> None:
    displays = Displays()
    outputs = Outputs(new_code_cell(), displays)
    for number in range(20):
        outputs.fold(
            sent(
                "display_data",
                data={"application/json": [[]] * 50_000},
                transient={"display_id": str(number)},
            )
        )
        outputs.fold(sent("clear_output"))
    assert (displays, outputs.left_out) == ({}, "")


def test_a_progress_bar_of_an_earlier_cell_is_one_change() -> None:
    displays = Displays()
    first, second = Outputs(new_code_cell(), displays), Outputs(new_code_cell(), displays)
    shown = {"transient": {"display_id": "bar"}}
    first.fold(sent("display_data", data={"text/plain": "0"}, **shown))
    for number in range(1000):
        second.fold(sent("update_display_data", data={"text/plain": str(number)}, **shown))
        second.fold(sent("update_display_data", data={}, transient={"display_id": str(number)}))
    assert second.elsewhere == first.settle().outputs
    assert first.cell.outputs[0].data["text/plain"] == "999"
    assert list(displays) == ["bar"]


def test_odd_values_can_be_written_again() -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    outputs = Outputs(new_code_cell())
    bundle = {"application/json": {"deep": deep, "big": float("1e400"), "none": float("nan")}}
    outputs.fold(message("display_data", data=bundle, metadata={"a": {"b": float("-inf")}}))
    outputs.fold(message("execute_input", code="", execution_count="7" * 100))
    cell = outputs.settle()
    written = json.dumps(cell, allow_nan=False)
    assert written.count("[[") < DEEPEST
    assert cell.execution_count is None


def test_a_long_stream_message_is_folded_in_parts_that_are_the_whole() -> None:
    text = "\ud83d\ude00é" * 100_000
    parts = list(in_parts(message("stream", name="stdout", text=text, rmi_agent_omitted=3)))
    assert "".join(part["content"]["text"] for part in parts) == text
    assert [part["content"].get("rmi_agent_omitted", 0) for part in parts][-2:] == [0, 3]


@pytest.mark.parametrize(
    "value",
    [
        [1] * 10_000,
        [{}] * 10_000,
        [[]] * 10_000,
        ["ab"] * 10_000,
        [{"a": 1.5}] * 10_000,
        [[["a,[{"]]] * 1000,
        "x" * 9999,
        "é" * 9999,
        "😀" * 9999,
        "x" * 9999 + "😀",
    ],
    ids=range(10),
)
def test_a_message_is_weighed_as_what_it_becomes(value: Any) -> None:
    def held(each: Any) -> int:
        inner = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        return sys.getsizeof(each) + sum(map(held, inner))

    for raw in (json.dumps(value).encode(), json.dumps(value, ensure_ascii=False).encode()):
        assert memory_of(raw) >= held(json.loads(raw)) * 0.7


def test_what_is_too_much_is_not_parsed_and_texts_with_commas_are_no_lists() -> None:
    from jupyter_client.session import Session

    session = Session(key=b"k")
    for data, left_out in (
        ({"application/json": [{}] * 1_000_000}, True),
        ({"text/html": '<p>a, b, [c], {d}\\ "e"</p>' * 200_000}, False),
    ):
        parts = session.serialize(session.msg("display_data", {"data": data}))[1:]
        read = unpacked(parts, session.deserialize)
        assert (read["content"] == {}) is left_out is (read["weight"].memory > HELD_MOST)
        assert read["weight"].size >= len(parts[4])


KERNELS: dict[str, dict[str, Any]] = {
    "JSON": {"data": {"application/json": [1] * 200_000}, "metadata": {}},
    "metadata": {"data": {}, "metadata": {"a": [1] * 200_000}},
    "keys": {"data": {f"{number}" * 90_000: "x" for number in range(40)}},
    "expressions": {"status": "ok", "user_expressions": {"a": {"data": ["b"] * 100_000}}},
    "payload": {"status": "ok", "payload": [{"data": {"text/plain": "p" * 9_000_000}}]},
    "evalue": {"ename": "E", "evalue": "e" * 9_000_000, "traceback": ["t" * 9_000_000]},
    "prompt": {"prompt": "p" * 9_000_000, "password": False},
    "comm": {"comm_id": "c", "data": {"a": [[]] * 200_000}},
}


@pytest.mark.slow
@pytest.mark.parametrize("content", KERNELS.values(), ids=KERNELS)
def test_a_kernel_sends_no_message_far_beyond_the_limit(content: dict[str, Any]) -> None:
    before = json.dumps(content)
    cut, omitted = cut_content(content, 300_000)
    assert json.dumps(content) == before  # it is the user's own
    assert len(json.dumps(cut)) < 2_400_000
    assert omitted > 100_000
    assert cut.keys() == content.keys()


def test_a_kernel_sends_what_is_within_the_limit_as_it_is() -> None:
    content = {"data": {"text/plain": "x" * 40_000, "application/json": [1, {"a": None}] * 1000}}
    assert cut_content(content, 300_000) == (content, 0)
    ours = {"status": "ok", "payload": [{"source": "rmi_agent.files", "x": "y" * 900_000}]}
    assert cut_content(ours, 300_000) == (ours, 0)


@pytest.mark.parametrize("limit", [1, 1_000, 100_000, 900_000])
@pytest.mark.parametrize("text", ["y" * 150_000 + "z", "\0" * 60_000, "語" * 40_000])
def test_a_text_that_is_cut_is_shorter_and_says_by_how_much(text: str, limit: int) -> None:
    cut, omitted = cut_content({"name": "stdout", "text": text}, limit)
    if not omitted:
        assert cut["text"] == text and len(text) * 6 < 10 * limit
        return
    head, said, tail = cut["text"].split("\n")
    assert text.startswith(head) and text.endswith(tail)
    assert said == f"[… {len(text) - len(head) - len(tail):,} characters were not sent …]"


def test_what_comes_after_the_limit_is_counted_in_words() -> None:
    outputs = Outputs(new_code_cell(), limit=100)
    outputs.stream("stdout", "x" * 60)
    assert outputs.left_out == ""
    outputs.stream("stdout", "x" * 60)  # the one that crosses it is kept
    assert outputs.left_out == ""
    outputs.stream("stdout", "y" * 70)
    outputs.fold(message("display_data", data={"text/plain": "z" * 500}))
    said = re.fullmatch(
        r"Left out: ([\d,]+) bytes beyond RMI_AGENT_OUTPUT_LIMIT \(100\)\. .*", outputs.left_out
    )
    assert said is not None and 570 < int(said[1].replace(",", "")) < 700
    outputs.fold(message("stream", name="stdout", text="", rmi_agent_omitted=10**4000))
    assert "beyond RMI_AGENT_OUTPUT_LIMIT" in outputs.left_out
    assert outputs.settle().outputs[0].text == "x" * 120


@pytest.mark.skipif(sys.platform == "win32", reason="pipes")
@pytest.mark.anyio
async def test_output_between_runs_is_kept_up_to_a_bound_and_the_rest_is_counted() -> None:
    raw, heard = RawOutput(), []
    ends = raw.open()
    try:
        for _ in range(40):
            os.write(ends[0], b"late " * 10_000)
            await asyncio.sleep(0.005)
        os.write(ends[1], b"err")
        raw.drain()
        left_out = raw.attach(lambda name, text: heard.append((name, text)))
        kept = sum(len(text) for _, text in heard)
        assert LATE <= kept < LATE + 200_000
        assert kept + left_out == 40 * 50_000 + 3
        os.write(ends[0], b"next")
        raw.detach()
        assert heard[-1] == ("stdout", "next")
        assert raw.attach(lambda *_: None) == 0
    finally:
        raw.close()
        for end in ends:
            os.close(end)
