"""Keeps conversations in the user's state folder, so that they can be continued later.

A file each, which only the user can read: a line about it, then a line with its messages. Knows
pydantic-ai's messages and files; nothing about models, servers or terminals.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import ValidationError
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter

from ..errors import NoConversationError
from ..whole_file import write_whole

SUFFIX = ".jsonl"
MOST = 100  # max conversations kept
MOST_BYTES = 10_000_000  # max size of a conversation
TITLE = 200  # max characters kept of the first question
NO_PICTURE = "[a picture; it was not kept]"


@dataclass
class Conversation:
    """A conversation, and what is needed to continue it.

    Attributes:
        model, base_url: as `rmi-agent chat` takes them.
        title: the first question.
        changed: when it was last written, in seconds since 1970.
        written: its file's time in ns when this process last read or wrote it.
    """

    model: str
    base_url: str | None = None
    title: str = ""
    messages: list[ModelMessage] = field(default_factory=list)
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    changed: float = 0.0
    written: int | None = None


class Store:
    """The conversations in one folder. Its methods read and write files: call them in a thread."""

    def __init__(self, folder: Path | None = None) -> None:
        state = platformdirs.user_state_path("rmi-agent", appauthor=False)
        self.folder = folder or state / "chats"

    def list(self) -> list[Conversation]:
        """All conversations, the last one first, without their messages."""
        return [one for path in self._paths() if (one := read_head(path)) is not None]

    def load(self, beginning: str) -> Conversation:
        """The last conversation whose id begins so.

        Raises:
            NoConversationError: there is none, or it can't be read.
        """
        path = next((one for one in self._paths() if one.stem.startswith(beginning)), None)
        found = read_head(path) if path is not None else None
        if path is None or found is None:
            which = f" {beginning!r}" if beginning else ""
            raise NoConversationError(
                f"No chat{which} is kept; `rmi-agent chat --list` lists them."
            )
        try:
            with path.open("rb") as file:
                file.readline()
                found.messages = ModelMessagesTypeAdapter.validate_json(file.readline())
        except (OSError, ValidationError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is damaged"
            raise NoConversationError(f"{path} can't be read: {why}.") from None
        return found

    def save(self, conversation: Conversation) -> None:
        """Write a conversation, under a new id if another process has continued it meanwhile.

        The oldest conversations beyond `MOST` are deleted.

        Raises:
            OSError: it can't be written, or is too large.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if time_of(self._path(conversation)) not in (conversation.written, None):
            conversation.id = secrets.token_hex(4)
        path = self._path(conversation)
        write_whole(path, as_text(conversation))
        conversation.written = time_of(path)
        for old in list(self._paths())[MOST:]:
            with contextlib.suppress(OSError):
                old.unlink()

    def _path(self, conversation: Conversation) -> Path:
        return self.folder / f"{conversation.id}{SUFFIX}"

    def _paths(self) -> Iterator[Path]:
        """The files, the last one written first."""
        dated = [(time_of(path) or 0, path) for path in self.folder.glob(f"[!.]*{SUFFIX}")]
        return (path for _, path in sorted(dated, reverse=True))


def as_text(conversation: Conversation) -> str:
    """A conversation as its file has it; without pictures if it is too large with them.

    Raises:
        OSError: it is too large even so.
    """
    messages = ModelMessagesTypeAdapter.dump_python(conversation.messages, mode="json")
    head = {
        "model": conversation.model,
        "base_url": conversation.base_url,
        "title": " ".join(conversation.title.split())[:TITLE],
    }
    for shortened in (messages, without_pictures(messages)):
        lines = [json.dumps(head), json.dumps(shortened, ensure_ascii=False), ""]
        data = "\n".join(lines).encode("utf-8", "replace")  # pydantic reads no lone surrogates
        if len(data) <= MOST_BYTES:
            return data.decode()
    raise OSError(f"the conversation has more than {MOST_BYTES / 1e6:.0f} MB")


def without_pictures(value: Any) -> Any:
    """Messages as JSON, with a text in place of each picture."""
    if isinstance(value, list):
        return [without_pictures(one) for one in value]
    if isinstance(value, dict):
        if value.get("kind") == "binary":
            return NO_PICTURE
        return {name: without_pictures(one) for name, one in value.items()}
    return value


def read_head(path: Path) -> Conversation | None:
    """A conversation without its messages; None if the file is none."""
    try:
        with path.open("rb") as file:
            head = json.loads(file.readline())
        written = path.stat().st_mtime_ns
        return Conversation(
            str(head["model"]),
            head["base_url"],
            str(head["title"]),
            id=path.stem,
            changed=written / 1e9,
            written=written,
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def time_of(path: Path) -> int | None:
    """When a file was written, in ns; None if there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
