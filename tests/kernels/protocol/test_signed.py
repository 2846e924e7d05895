"""Signed messages, read as jupyter_client reads them."""

from __future__ import annotations

from typing import Any

import pytest
from jupyter_client.session import Session
from rmi_agent.kernels.protocol import SignedMessages, unpacked

CONTENTS: list[dict[str, Any]] = [
    {},
    {"name": "stdout", "text": "ünö \U0001d518 \x00 \\ud800"},
    {"data": {"text/plain": "1", "application/json": {"a": [1, 2.5, None, True]}}},
    {"date": "2026-11-27T18:38:06.123456Z", "text": "2026-11-27T18:38:06.123456Z"},
]


@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
def test_messages_are_read_as_by_jupyter_client_but_their_dates_stay_text(
    content: dict[str, Any],
) -> None:
    session = Session(key=b"k", digest_history_size=0)
    message = session.msg("stream", content, parent=session.msg("execute_request"))
    parts = session.serialize(message)[1:]
    theirs, ours = session.deserialize(parts), SignedMessages(b"k").read(parts)
    for header in ("header", "parent_header"):
        assert ours[header]["date"] == theirs[header]["date"].isoformat().replace("+00:00", "Z")
        ours[header]["date"] = theirs[header]["date"]
    assert ours == theirs
    without = SignedMessages(b"k").read(parts, content=False)
    assert without == session.deserialize(parts, content=False) | {
        header: without[header] for header in ("header", "parent_header")
    }


@pytest.mark.parametrize("part", range(5))
def test_a_message_that_was_changed_is_refused(part: int) -> None:
    session = Session(key=b"k")
    parts = session.serialize(session.msg("stream", {"text": "1"}))[1:]
    parts[part] = parts[part].replace(b"1", b"2") if b"1" in parts[part] else b"x" + parts[part]
    with pytest.raises(ValueError, match="Invalid Signature"):
        unpacked(parts, SignedMessages(b"k").read)


@pytest.mark.parametrize("count", range(5))
def test_too_few_parts_are_no_message(count: int) -> None:
    with pytest.raises((ValueError, IndexError)):
        unpacked([b"{}"] * count, SignedMessages(b"k").read)


def test_what_is_no_utf_8_is_replaced() -> None:
    session = Session(key=b"k")
    parts = session.serialize(session.msg("stream"))[1:]
    parts[4] = b'{"text": "\xff"}'
    parts[0] = session.sign(parts[1:5])
    assert SignedMessages(b"k").read(parts)["content"] == {"text": "\ufffd"}
