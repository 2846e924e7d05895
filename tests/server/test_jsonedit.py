"""Edits of JSON that belongs to others: right where they are meant, and nothing anywhere else."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rmi_agent.server.jsonedit import Text
from rmi_agent.server.jsontext import Malformed

ENTRY = {"command": "/bin/x", "args": ["-y"], "env": {"É": "ü"}}
WRITTEN = """\
{
  "mcpServers": {
    "python": {
      "command": "/bin/x",
      "args": [
        "-y"
      ],
      "env": {
        "É": "ü"
      }
    }
  }
}
"""
CASES = {
    "an empty file": ("", WRITTEN),
    "empty braces": ("{}", WRITTEN.rstrip("\n")),
    "empty braces on two lines": ("{\n}\n", WRITTEN),
    "an empty section": ('{\n  "mcpServers": {}\n}\n', WRITTEN),
    "a BOM": ("\ufeff{}", "\ufeff" + WRITTEN.rstrip("\n")),
    "lines that end as on Windows": (
        '{\r\n  "mcpServers": {}\r\n}\r\n',
        WRITTEN.replace("\n", "\r\n"),
    ),
    "tabs": ('{\n\t"mcpServers": {}\n}\n', WRITTEN.replace("  ", "\t")),
    "no space at all": (
        '{"a":1,"mcpServers":{"b":{}}}',
        '{"a":1,"mcpServers":{"b":{},"python":{"command":"/bin/x","args":["-y"],"env":{"É":"ü"}}}}',
    ),
    "one line": (
        '{"mcpServers": {"b": {}}}',
        '{"mcpServers": {"b": {}, "python": {"command": "/bin/x", "args": ["-y"], "env": {"É": "ü"}}}}',
    ),
}


@pytest.mark.parametrize(("before", "after"), CASES.values(), ids=CASES)
def test_an_entry_is_written_as_the_file_is(before: str, after: str) -> None:
    assert Text(before).put(ENTRY, "mcpServers", "python").text == after


COMMENTED = """\
// mine
{
    "inputs": [ 1.10, 1E400 ], /* as it is */
    "servers": {
        "a": {"command": "x",}, // the first
        // "old": {},
    }, // end
}
"""


def test_comments_and_trailing_commas_stay() -> None:
    after = Text(COMMENTED, comments=True).put({"command": "y"}, "servers", "python")
    added = '        "python": {\n            "command": "y"\n        },\n'
    lines = COMMENTED.splitlines(keepends=True)
    assert after.text == "".join([*lines[:6], added, *lines[6:]])
    assert after.without("servers", "python").text == COMMENTED


def test_a_comment_at_the_end_of_a_line_does_not_swallow_what_is_added() -> None:
    before = '{"servers": {"a": 1 // note\n}}'
    after = Text(before, comments=True).put(2, "servers", "b")
    assert after.value("servers") == {"a": 1, "b": 2}
    assert after.without("servers", "b").text == before


def test_a_list_gets_one_more_and_is_made_if_it_is_missing() -> None:
    assert Text('{"a": [1]}').append(2, "a").text == '{"a": [1, 2]}'
    assert Text('{"a": 1}').append(2, "b").text == '{"a": 1, "b": [2]}'
    with pytest.raises(Malformed, match="should be a list"):
        Text('{"a": {}}').append(2, "a")


@pytest.mark.parametrize(
    ("text", "words"),
    {
        "a comma too many": ('{\n  "a": {},\n}', "line 3, column 1: a comma before the closing"),
        "a comma missing": ('{\n  "a": 1\n  "b": 2\n}', "line 3, column 3: a comma or } is"),
        "a comment": ('{} // "', "line 1, column 4: comments are not allowed"),
        "quotes of a text program": ("{“a”: 1}", "line 1, column 2: a name in"),
        "a space of a web page": ('{\xa0"a": 1}', r"and here is '\xa0'"),
        "single quotes": ("{'a': 1}", "a name in"),
        "a backslash of Windows": ('{"a": "C:\\Users"}', "line 1, column 10: Invalid \\escape"),
        "an end too early": ('{"a": [1', "a comma or ] is expected, and here is the end"),
        "a second value": ("{} {}", "line 1, column 4: there is more"),
        "a number that is none": ('{"a": 01}', "a comma or } is expected"),
        "NaN": ('{"a": NaN}', "a value is expected"),
        "a line in a text": ('{"a": "b\nc"}', "line 1, column 9: Invalid control character"),
        "a list instead": ("[]", "line 1, column 1: the whole should be an object"),
        "a text for a section": ('{"mcpServers": ""}', '"mcpServers" should be an object'),
        "a section twice": ('{"mcpServers": {}, "mcpServers": {}}', "is there a second time"),
        "brackets without end": ("[" * 100_000, "more than 100 brackets"),
    }.values(),
)
def test_what_is_broken_is_told_by_its_place(text: str, words: str) -> None:
    with pytest.raises(Malformed) as caught:
        Text(text).put(ENTRY, "mcpServers", "python")
    assert words in str(caught.value)


SCALARS = ["1", "-0.10", "1E+400", "9" * 1200, "true", "null", '"ü\\u00e9\\ud800 // ,}"']
GAPS = ["", " ", "\n", "\r\n\t", "   "]
COMMENTS = ["/* , } */", " // {,\n"]


def text_of(seed: int, comments: bool) -> str:
    """A text as people and programs write them, with all that may stand between two parts."""
    random = Random(seed)
    gaps = GAPS + COMMENTS if comments else GAPS

    def gap() -> str:
        return random.choice(gaps)

    def container(depth: int, names: list[str]) -> str:
        parts = []
        for name in names:
            nested = random.randrange(3) if depth < 2 else 0
            inner = container(depth + 1, ["x", "y"][:nested]) if nested else random.choice(SCALARS)
            parts.append(f'{gap()}"{name}"{gap()}:{gap()}{inner}{gap()}')
        end = "," if comments and parts and random.random() < 0.5 else ""
        return "{" + ",".join(parts) + end + gap() + "}"

    others = container(1, random.sample("abc", random.randrange(4)))
    section = f'{gap()}"s"{gap()}:{gap()}{others}{gap()}'
    around = [f'"before"{gap()}: 0', section, f'{gap()}"after": [1,{gap()}2]']
    around = around[random.randrange(2) : random.randrange(2, 4)]
    return gap() + "{" + ",".join(around) + gap() + "}" + gap()


SEEDS = st.integers(0, 2**32)
NAMES = st.text(alphabet='a"\\\\ü\\n{},😀', max_size=5)
VALUES = st.recursive(
    NAMES | st.booleans() | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("comments", [False, True])
@settings(deadline=None, max_examples=100)
@given(seed=SEEDS, value=VALUES, name=NAMES)
def test_whatever_the_file_it_reads_as_it_should_and_removing_undoes_adding(
    comments: bool, seed: int, value: Any, name: str
) -> None:
    before = Text(text_of(seed, comments), comments)
    after = before.put(value, "s", "new" + name)
    expected = before.value()
    expected["s"]["new" + name] = value
    assert after.value() == expected
    assert list(after.value()["s"]) == list(expected["s"])
    assert after.put(value, "s", "new" + name) is after
    if not comments:
        assert json.loads(after.text, parse_int=str) is not None
    # What was there is still there, in its order: only commas and what is new came between.
    rest = iter(after.text)
    assert all(character in rest for character in before.text)
    undone = after.without("s", "new" + name)
    part = before.part("s")
    assert part is not None
    inside = before.text[part.value + 1 : part.end - 1]
    if inside and not inside.strip():  # empty braces lose the space between them
        assert undone.text == before.text[: part.value + 1] + before.text[part.end - 1 :]
    else:
        assert undone.text == before.text


@settings(deadline=None, max_examples=100)
@given(SEEDS)
def test_each_entry_can_be_taken_out_or_replaced_alone(seed: int) -> None:
    before = Text(text_of(seed, comments=True), comments=True)
    expected = before.value()
    for name in list(expected["s"]):
        one = before.value()
        del one["s"][name]
        assert before.without("s", name).value() == one
        part = before.part("s", name)
        assert part is not None
        replaced = before.put("new", "s", name).text
        assert replaced == before.text[: part.value] + '"new"' + before.text[part.end :]


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet='{}[]":,/*\\n1truefalsn -.eE\n\t"aü\x00\xa0'))
def test_it_reads_what_python_reads_and_refuses_what_python_refuses(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        expected = Malformed
    try:
        text_ = Text(text)
        found = Malformed if text_.root is None else text_.value()
    except Malformed:
        found = Malformed
    if "Infinity" in text or "NaN" in text:
        return
    assert found == expected
