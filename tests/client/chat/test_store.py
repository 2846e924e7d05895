"""Conversations on disk: private, bounded, and never half of one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic_ai import BinaryContent
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from rmi_agent.client.chat import Conversation, Store, store
from rmi_agent.client.errors import NoConversationError


def messages(picture: bytes = b"\x89PNG") -> list[ModelMessage]:
    seen = ["42\n\u2028 é", BinaryContent(picture, media_type="image/png")]
    return [
        ModelRequest([UserPromptPart("What?")]),
        ModelResponse([ToolCallPart("run_cell", {"code": "1"}, "c1")]),
        ModelRequest([ToolReturnPart("run_cell", seen, "c1", metadata={"status": "ok"})]),
        ModelResponse([TextPart("It is 42.")]),
    ]


def test_a_conversation_is_kept_and_found_again(tmp_path: Path) -> None:
    kept = Store(tmp_path / "state" / "chats")
    one = Conversation("openai:x", "http://127.0.0.1:9", "What\n  is it?", messages())
    kept.save(one)
    again = kept.load(one.id[:4])
    assert (again.model, again.base_url) == ("openai:x", "http://127.0.0.1:9")
    assert again.title == "What is it?"
    assert store.as_text(again) == store.as_text(one)
    again.messages = again.messages * 2
    kept.save(again)
    assert len(kept.load("").messages) == 8
    assert [found.id for found in kept.list()] == [one.id]
    # Another process has gone on with it meanwhile: neither loses anything.
    kept.save(one)
    assert sorted(len(kept.load(found.id).messages) for found in kept.list()) == [4, 8]
    again.messages = [ModelResponse([TextPart("half a \ud83d")])]
    kept.save(again)
    assert kept.load(again.id).messages[0].parts[0].content == "half a ?"  # type: ignore[union-attr]
    assert {path.stat().st_mode & 0o777 for path in kept.folder.iterdir()} == {0o600}


@pytest.mark.parametrize("content", [b"", b"{}\n[]\n", b"\xff", b'{"model": 1}', b"[" * 100_000])
def test_what_is_no_conversation_is_passed_over(tmp_path: Path, content: bytes) -> None:
    kept = Store(tmp_path)
    (tmp_path / "broken.jsonl").write_bytes(content)
    assert kept.list() == []
    with pytest.raises(NoConversationError, match="No chat 'broken' is kept"):
        kept.load("broken")


def test_a_damaged_conversation_is_reported(tmp_path: Path) -> None:
    kept = Store(tmp_path)
    kept.save(one := Conversation("openai:x", messages=messages()))
    path = tmp_path / f"{one.id}.jsonl"
    os.truncate(path, path.stat().st_size - 9)
    with pytest.raises(NoConversationError, match="it is damaged"):
        kept.load("")


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST", 3)
    monkeypatch.setattr(store, "MOST_BYTES", 20_000)
    kept = Store(tmp_path)
    for number in range(5):
        one = Conversation("openai:x", title=str(number), messages=messages())
        kept.save(one)
        os.utime(tmp_path / f"{one.id}.jsonl", (number, number))
    assert [found.title for found in kept.list()] == ["4", "3", "2"]
    kept.save(one := Conversation("openai:x", messages=messages(bytes(30_000))))
    [returned] = kept.load(one.id).messages[2].parts
    assert returned.content[1] == store.NO_PICTURE  # type: ignore[union-attr,index]
    one.messages *= 100
    with pytest.raises(OSError, match="more than"):
        kept.save(one)
    assert len(kept.load(one.id).messages) == 4
