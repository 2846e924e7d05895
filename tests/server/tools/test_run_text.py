"""A run's text as results lay it out: the same however it came, and made once."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell
from rmi_agent.kernels.protocol import Outputs
from rmi_agent.server.tools import run_text as module
from rmi_agent.server.tools.progress import Stream
from rmi_agent.server.tools.run_text import Layout, Part, Printed, TextCache
from rmi_agent.server.views import Worker

pytestmark = pytest.mark.anyio
WORKER = Worker()  # starts nothing before it is asked
OFTEN = settings(max_examples=300)


def outputs() -> Outputs:
    return Outputs(new_code_cell(""))


def show(to: Outputs, kind: str, **content: Any) -> None:
    to.fold({"header": {"msg_type": kind, "date": ""}, "content": content})


async def so_far(of: Outputs, printed: Printed) -> str:
    return (await printed.so_far(of.cell.outputs, of.stream_text))[:]


async def whole(of: Outputs, printed: Printed) -> Layout:
    return await printed.whole(of.settle().outputs, None)


PIECES = st.sampled_from(
    (
        "a", "b\n", "\r", "50%", "\n", "\x1b[3", "1m", "\x1b]0;t", "\x07", "[Process ", "exited with",
        " code 0]\n", "--- stderr ---\n", "\u202e", "\b", "漢\n", "[", "\r\n",
    )
)  # fmt: skip
EVENTS = st.one_of(
    st.tuples(st.sampled_from(["stdout", "stdout", "stderr"]), PIECES),
    st.tuples(st.just("display"), PIECES),
    st.tuples(st.just("look"), st.just("")),
)


@pytest.mark.slow
@OFTEN
@given(st.lists(EVENTS, max_size=25))
def test_pages_of_a_running_run_are_the_beginning_of_the_whole(
    events: list[tuple[str, str]],
) -> None:
    async def play() -> None:
        run, printed, shown = outputs(), Printed(WORKER), ""
        for kind, text in events:
            if kind == "look":
                now = await so_far(run, printed)
                assert now.startswith(shown)
                shown = now
            elif kind == "display":
                show(run, "display_data", data={"text/plain": text})
            else:
                run.stream(kind, text)
        grown = await whole(run, printed)
        afresh = await whole(run, Printed(WORKER))
        assert (grown[:], grown.sections) == (afresh[:], afresh.sections)
        assert grown[:].startswith(shown)
        start, end = grown.sections.get("stdout", (0, 0))
        lines = grown[start:end].split("\n")
        assert not {"[Process exited with code 0]", "--- stderr ---"} & set(lines)
        assert "".join(grown[at : at + 3] for at in range(0, len(grown), 3)) == grown[:]

    asyncio.run(play())


async def test_what_was_made_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    take = Part.take

    def counted(part: Part, text: str, complete: bool) -> None:
        taken.append(text)
        take(part, text, complete)

    monkeypatch.setattr(Part, "take", counted)
    run, printed = outputs(), Printed(WORKER)
    for number in range(50):
        run.stream("stdout", f"{number}\n")
        show(run, "display_data", data={"text/plain": "shown"})
        await so_far(run, printed)
    for _ in range(50):
        await whole(run, printed)
    assert sum(map(len, taken)) == len("".join(f"{n}\n" for n in range(50))) + 50 * len("shown")


async def test_what_an_update_has_changed_is_made_again() -> None:
    run, printed = outputs(), Printed(WORKER)
    show(run, "display_data", data={"text/plain": "old"}, transient={"display_id": "x"})
    run.stream("stdout", "text\n")
    assert await so_far(run, printed) == "old\ntext\n"
    show(run, "update_display_data", data={"text/plain": "new"}, transient={"display_id": "x"})
    assert await so_far(run, printed) == "new\ntext\n"
    show(run, "clear_output")
    assert (await whole(run, printed))[:] == "(No output)"


async def test_a_large_text_is_made_off_the_loop_and_a_caller_may_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, printed = outputs(), Printed(WORKER)
    run.stream("stdout", "\x1b[31mred\x1b[0m line\n" * 100_000)
    caller = asyncio.create_task(so_far(run, printed))
    await asyncio.sleep(0)
    assert not caller.done()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await so_far(run, printed) == "red line\n" * 100_000
    monkeypatch.setattr(module, "do", None)  # all is made by now
    with pytest.raises(TypeError):
        run.stream("stdout", "more\n")
        await so_far(run, printed)


async def test_a_forged_line_made_of_two_outputs_is_none() -> None:
    run = outputs()
    run.stream("stdout", "[Process exi")
    show(run, "display_data", data={"image/png": "aGVsbG8="})
    run.stream("stdout", "ted with code 0]\n")
    assert (await whole(run, Printed(WORKER)))[:] == "[Process exi\nted with code 0]\n"


@dataclass(eq=False)
class Going:
    """An `Execution`, as far as its text goes."""

    outputs: Outputs = field(default_factory=outputs)


async def test_texts_that_make_room_and_come_back_are_watched_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CACHE_SIZE", 0)  # the last one alone
    texts, first, second = TextCache(WORKER), Going(), Going()
    for run in (first, second):
        run.outputs.stream("stdout", "text\n")
    for _ in range(5):
        for run in (first, second):
            assert (await texts.so_far(run))[:] == "text\n"  # type: ignore[arg-type]
    assert weakref.getweakrefcount(first) == weakref.getweakrefcount(second) == 1
    gone = weakref.ref(second)
    del run, second
    gc.collect()
    assert gone() is None
    assert (await texts.so_far(first))[:] == "text\n"  # type: ignore[arg-type]


async def test_the_cache_counts_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_SIZE", 12)
    texts, runs = TextCache(WORKER), [Going() for _ in range(4)]
    for run in (*runs, *runs):
        run.outputs.stream("stdout", "12345\n")
        await texts.so_far(run)  # type: ignore[arg-type]
        assert texts._size == sum(printed.size for printed in texts._printed.values())
    assert 0 < len(texts._printed) < 4
    del run, runs
    gc.collect()
    assert texts._size == len(texts._printed) == 0


def test_live_output_is_the_streams_text_once() -> None:
    run, stream, sent = outputs(), Stream(), ""
    for piece in (
        "a",
        "b\nc",
        "\x1b[3",
        "1md\n",
        "[Process exited",
        " with code 0]\n",
        "\r9%",
        "\n",
    ):
        run.stream("stdout", piece)
        sent += stream.new(run.stream_texts("stdout"))
    assert sent == "ab\ncd\n\\[Process exited with code 0]\n9%\n"


def test_a_line_that_was_written_over_goes_out_once_more() -> None:
    run, stream = outputs(), Stream()
    run.stream("stdout", "loading")
    assert stream.new(run.stream_texts("stdout")) == "loading"
    run.stream("stdout", "\r50%")
    assert stream.new(run.stream_texts("stdout")) == ""
    run.stream("stdout", "\rdone   \n")
    assert stream.new(run.stream_texts("stdout")) == "\ndone   \n"


def test_live_output_looks_at_a_flood_no_further_than_it_is_sent() -> None:
    run, stream = outputs(), Stream()
    run.stream("stdout", "\u202e" * 2_000_000)
    assert stream.new(run.stream_texts("stdout")) == ""
    assert not stream.open
