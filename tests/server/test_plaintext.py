"""What is taken out of a text before a model or a terminal gets it, whatever the text is."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
import rmi_agent.client.plaintext
import rmi_agent.server.plaintext
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rmi_agent.server.plaintext import Plain, plain

OFTEN = settings(max_examples=500)
ESCAPES = [
    "\x1b[31m", "\x1b[?25l", "\x1b[1;2 q", "\x1b(B", "\x1b7", "\x1b=", "\x1bc", "\x1b#8", "\x1b%G",
    "\x1b]0;title\x07", "\x1b]52;c;aGk=\x1b\\", "\x1b]8;;http://x\x1b\\", "\x1bPq#0\x1b\\",
    "\x1b_Gf=100;AA\x1b\\", "\x1b^x\x1b\\", "\x1bXx\x1b\\", "\x9b31m", "\x9d52;c;aGk=\x9c",
    "\x1b]0;no end", "\x1b[3", "\x1b", "\x9b", "\x9d", "\x1b ",
]  # fmt: skip
INVISIBLE = [
    "\u202a", "\u202e", "\u2066", "\u2069", "\u200e", "\u200f", "\u061c", "\u200b", "\u2060",
    "\ufeff", "\xad", "\U000e0041", "\U000e007f", "\U000e0100", "\U000e01ef",
]  # fmt: skip
CHARACTERS = st.sampled_from(
    "\x1b\x1b\x1b[]P\\(78=;0123m \r\n\t\x07\x9b\x9d\x9c\x90\x85ab\u2028\0\b"
)
TEXTS = st.one_of(
    st.text(CHARACTERS, max_size=30),
    st.text(max_size=30),
    st.lists(st.sampled_from([*ESCAPES, *INVISIBLE, "x", "\r", "\n"]), max_size=10).map("".join),
)
ORDINARY = st.text(
    st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"]) | st.sampled_from("\n\t"),
    max_size=50,
).filter(lambda text: not set(text) & set(map(chr, range(0xE0000, 0xE1000))))


@pytest.mark.parametrize("escape", ESCAPES[:18])
def test_of_an_escape_sequence_nothing_is_left(escape: str) -> None:
    assert plain(f"a{escape}b") == "ab"


@pytest.mark.parametrize("character", INVISIBLE)
def test_what_does_not_show_is_taken_out(character: str) -> None:
    assert plain(f"a{character}b") == "ab"


@pytest.mark.parametrize(
    "text",
    [
        "größe 漢字\t|\n",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "👩\u200d🚀 ❤\ufe0f",
        "",
    ],
)
def test_scripts_and_emoji_stay_whole(text: str) -> None:
    assert plain(text) == text


def test_wrongly_decoded_text_loses_no_letters() -> None:
    text = "Ã\x9f Ä\x9bk Ð\x90Ð\x91 â\x9d¤ und weiter\n"  # UTF-8 read as Latin-1
    assert plain(text) == "Ã Äk ÐÐ â¤ und weiter\n"


def test_a_command_without_end_takes_its_line_and_no_more() -> None:
    assert plain("a\x1b]0;rest of it\nnext") == "a\nnext"


def test_line_ends_of_all_kinds_are_newlines() -> None:
    assert plain("a\r\nb\rc\u2028d\u2029e\r") == "a\nb\nc\nd\ne\n"


@pytest.mark.slow
@OFTEN
@given(ORDINARY)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert plain(text) == text


@pytest.mark.slow
@OFTEN
@given(TEXTS)
@example("\x1b\x1b[[31m31m")
@example("\x1b[\x1b]\x9b\x9d1")
def test_no_control_character_is_left_and_twice_is_as_once(text: str) -> None:
    made = plain(text)
    kinds = {unicodedata.category(character) for character in made if character not in "\n\t"}
    assert not kinds & {"Cc", "Zl", "Zp"}
    assert not set(made) & set(INVISIBLE)
    assert plain(made) == made


@pytest.mark.slow
@OFTEN
@given(TEXTS, st.lists(st.integers(0, 40)))
@example("a\r\nb", [2])
@example("\r\0\n", [2])
@example("\x9b31m", [1, 2])
def test_it_does_not_matter_how_a_text_was_cut_up(text: str, cuts: list[int]) -> None:
    pieces, made, start = Plain(), "", 0
    for cut in sorted(cuts):
        made += pieces.feed(text[start : max(cut, start)])
        start = max(cut, start)
    assert made + pieces.feed(text[start:]) + pieces.end() == plain(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["\x1b", "\x1b[", "\x1b]", "\x9d1", "\x9b1", "\x1b[0", "\r\0", "\x1b ", "\u202e"]
)
def test_a_million_of_the_same_end_soon(text: str) -> None:
    assert len(plain(text * 1_000_000)) <= 1_000_000


def test_server_and_client_have_the_same_function() -> None:
    here, there = (
        Path(module.__file__ or "").read_text("utf-8")
        for module in (rmi_agent.server.plaintext, rmi_agent.client.plaintext)
    )
    assert here == there
