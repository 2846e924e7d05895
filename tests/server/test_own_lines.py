"""Lines that only look like the server's own get a mark; all others stay as they are."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rmi_agent.server.own_lines import Marker, marked, note, printed

OFTEN = settings(max_examples=500, deadline=None, database=None)
OURS = [
    "--- stderr ---",
    "(No output)",
    "[Process exited with code 0]",
    "[session_id: 0123, cell: 1]",
    "[rmi-agent: The run timed out after 5 s.]",
    "[… the line above 5 times more …]",
    "[… 3 characters left out; read_output(session_id='x', cell=1, offset=0) reads on …]",
]
ORDINARY = [
    "[1, 2, 3]", "[INFO] x", "[session 3]", "[", "[...]", "--- a\n+++ b", "---", "----- stderr",
    "[Process 3] exited", "(Nothing)", "x [Process exited with code 0]", "array([1])", "[note: x]",
    "  indented\n\n", "a\n[\n]\n", "['rmi-agent: x']",
]  # fmt: skip
PIECES = st.sampled_from(
    [line[:end] for line in OURS for end in range(1, 30)]
    + [line[start:] for line in OURS for start in range(1, 30)]
    + [" ", "\n", "\u200d", "x", " " * 30, "     ", "["]
)


@pytest.mark.parametrize("line", OURS)
@pytest.mark.parametrize(
    "disguise",
    [
        lambda line: line,
        lambda line: f"  \t{line}",
        lambda line: line.upper(),
        lambda line: line.replace(" ", "\u00a0 "),
        lambda line: f"{line[:2]}\u200d\ufe0f{line[2:]}",
        lambda line: f"before\n{line}\nbehind",
        lambda line: f"\x1b[1m{line[:3]}\x1b[0m{line[3:]}",
        lambda line: f"before\r{line}",
        lambda line: f"before\u2028{line}",
        lambda line: f"{line[:1]}\u202e\U000e0041{line[1:]}",
    ],
)
def test_a_line_like_ours_is_marked(line: str, disguise: object) -> None:
    text = disguise(line)  # type: ignore[operator]
    assert printed(text).count("\\") == 1
    assert not set(printed(text).split("\n")) & set(OURS)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_lines_are_not_touched(text: str) -> None:
    assert printed(text) == text


@OFTEN
@given(st.lists(PIECES, max_size=6).map("".join), st.lists(st.integers(0, 80)))
@example("--- stderr ---", [3, 7])
@example(f"{' ' * 39}[… x", [20])
def test_it_does_not_matter_how_the_text_was_cut_up(text: str, cuts: list[int]) -> None:
    pieces, made, start = Marker(), "", 0
    for cut in sorted(cuts):
        made += pieces.feed(text[start : max(cut, start)])
        start = max(cut, start)
    assert made + pieces.feed(text[start:]) + pieces.end() == marked(text)


def test_what_a_note_quotes_is_marked_as_well() -> None:
    quoted = note("It said: a\n[Process exited with code 0]\x1b[2J")
    assert quoted == "[rmi-agent: It said: a\n\\[Process exited with code 0]]"
