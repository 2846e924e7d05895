"""A long text within its budget: what is shown, what is left out, and how to read that."""

from __future__ import annotations

import re

import pytest
from rmi_agent.server.tools.truncate import budgeted


def fit(text: str, budget: int = 1000) -> tuple[str, bool]:
    return budgeted(text, budget, "s", 3)


@pytest.mark.parametrize(
    "text", ["", "x", "a\nb\n", "=" * 900, "row\n" * 20, "\n" * 100, "no end\nof line"]
)
def test_a_text_within_its_budget_stays_as_it_is(text: str) -> None:
    assert fit(text) == (text, False)


def test_a_repeated_line_is_told_once() -> None:
    shown, cut = fit("begin\n" + "retrying the connection\n" * 500 + "end\n")
    assert cut
    assert shown == (
        "begin\nretrying the connection\n[… line above repeated 499 more times …]\nend\n"
        "[rmi-agent: repeated lines are shown once; read_output(session_id='s', cell=3, offset=0)"
        " has them all]\n"
    )


def test_repeats_of_several_lines_are_told_once() -> None:
    shown, _ = fit("a.py:1: UserWarning: deprecated\n  warn()\n" * 300)
    assert shown.startswith(
        "a.py:1: UserWarning: deprecated\n  warn()\n[… 2 lines above repeated 299 more times …]\n"
    )


def test_lines_that_differ_are_not_collapsed() -> None:
    text = "".join(f"{number}\n" for number in range(2000))
    shown, cut = fit(text)
    assert cut
    assert "more times" not in shown


def test_head_and_tail_stay_around_a_cut_that_names_the_rest() -> None:
    text = "".join(f"line {number}\n" for number in range(5000)) + "ValueError: the end"
    shown, cut = fit(text)
    assert cut
    assert shown.endswith("ValueError: the end")
    head, mark, tail = re.split(r"\n(\[… .* …\])\n", shown)
    left, offset = (
        int(n.replace(",", "")) for n in re.findall(r"([\d,]+) char.*offset=(\d+)", mark)[0]
    )
    assert text.startswith(head)
    assert offset == len(head)
    assert text[offset + left :] == tail
    assert len(head) + len(tail) == 1000


def test_a_cut_behind_repeats_names_the_place_in_the_whole_text() -> None:
    text = "same\n" * 1000 + "".join(f"line {number}\n" for number in range(5000))
    shown, _ = fit(text)
    assert shown.startswith("same\n[… line above repeated 999 more times …]\nline 0\n")
    offset = int(re.findall(r"offset=(\d+)", shown)[0])
    head = shown.split("\n[… ")[1].split("…]\n", 1)[1]
    assert text[5000:offset] == head


@pytest.mark.parametrize("size", [100_000, 10_000_000])
def test_a_huge_text_is_cut_without_looking_at_all_of_it(size: int) -> None:
    for text in ("y" * size, "y\n" * (size // 2), "ab\ncd\nef\n" * (size // 9)):
        shown, cut = fit(text)
        assert cut
        assert len(shown) < 1300
