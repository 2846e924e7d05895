"""The prompt on a terminal: editing, history, colours and completion.

Knows prompt_toolkit and keys; the caller supplies the completion function. Imported only on a
terminal that can move its cursor.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from pathlib import Path

import platformdirs
from ipython_pygments_lexers import IPython3Lexer
from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer

from ..plaintext import plain
from ..terminal import (
    INDENT,
    Incomplete,
    completion_context,
    indentation,
    needs_more_lines,
    replacement_start,
    write,
)
from ..whole_file import write_whole

Complete = Callable[[str], Awaitable[list[str]]]
COMPLETION_TIMEOUT = 1.0  # max seconds for a completion
HISTORY_SIZE = 1_000_000  # bytes of a history that is not shortened
ENTRY = "\n# "  # how an entry begins in prompt_toolkit's file


class KernelCompleter(Completer):
    """Completes code with the session's kernel; offers nothing if that takes too long."""

    def __init__(self, complete: Complete) -> None:
        self._complete = complete

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        """Return nothing: the kernel is queried asynchronously."""
        return ()

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        """Yield the completions of the word at the cursor."""
        code = completion_context(document.text_before_cursor)
        try:
            async with asyncio.timeout(COMPLETION_TIMEOUT):
                values = await self._complete(code)
        except TimeoutError:
            return
        start = replacement_start(code, values)
        for value in values:
            word = plain(value[start:])
            yield Completion(word, start - len(code), display=word)


def history(name: str) -> History:
    """The history in a private file of the user, or in memory if the file can't be used."""
    path = platformdirs.user_state_path("rmi-agent", appauthor=False) / name
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        path.chmod(0o600)
        shorten(path)
    except OSError as error:
        write("stderr", f"[the history is not saved: {error}]\n")
        return InMemoryHistory()
    return FaultTolerantHistory(path)


def shorten(path: Path) -> None:
    """Delete the older half of a history that is too long.

    Raises:
        OSError: it can't be read or written.
    """
    if path.stat().st_size > HISTORY_SIZE:
        text = path.read_text("utf-8", "replace")
        start = text.find(ENTRY, len(text) // 2)
        write_whole(path, text[start:] if start >= 0 else "")


class FaultTolerantHistory(FileHistory):
    """A history in a file; write errors, such as a full disk, do not end the prompt."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))

    def store_string(self, string: str) -> None:
        """Append an entry, printing an error if that fails."""
        try:
            super().store_string(string.encode("utf-8", "replace").decode())
        except OSError as error:
            write("stderr", f"[not saved in the history: {error}]\n")


def code_prompt(complete: Complete, toolbar: Callable[[], str]) -> PromptSession[str]:
    """A prompt for cells: Enter runs complete code, Tab completes, Alt-Enter always runs.

    Args:
        complete: completes code.
        toolbar: returns the line below the prompt.
    """
    return PromptSession(
        ">>> ",
        multiline=True,
        prompt_continuation="... ",
        lexer=PygmentsLexer(IPython3Lexer, sync_from_start=True),
        history=history("repl-history"),
        completer=KernelCompleter(complete),
        complete_while_typing=False,
        bottom_toolbar=toolbar,
        enable_history_search=True,
        enable_open_in_editor=True,
        enable_suspend=True,
        key_bindings=code_keys(),
    )


def message_prompt(*, keeps: bool) -> PromptSession[str]:
    """A prompt for messages to a model: Enter sends, Alt-Enter starts a new line.

    Args:
        keeps: whether messages are kept in the history's file.
    """
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return PromptSession(
        multiline=True,
        history=history("chat-history") if keeps else InMemoryHistory(),
        enable_history_search=True,
        enable_open_in_editor=True,
        enable_suspend=True,
        key_bindings=keys,
    )


async def answer_prompt(question: str, secret: bool) -> str | None:
    """Ask a cell's question, without history; None on Ctrl-C or Ctrl-D."""
    try:
        session: PromptSession[str] = PromptSession(history=InMemoryHistory())
        return await session.prompt_async(plain(question), is_password=secret)
    except (KeyboardInterrupt, EOFError):
        return None


def code_keys() -> KeyBindings:
    """Key bindings for editing Python: Enter, Tab and Backspace follow its indentation."""
    keys = KeyBindings()
    incomplete = Incomplete()
    in_indent = Condition(
        lambda: not get_app().current_buffer.document.current_line_before_cursor.strip()
    )
    choosing = Condition(lambda: get_app().current_buffer.complete_state is not None)

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        document = buffer.document
        if buffer.complete_state is not None and buffer.complete_state.current_completion:
            buffer.complete_state = None  # accept the completion; the next Enter runs the code
            return
        behind = document.text_after_cursor.strip()
        if behind or needs_more_lines(document.text_before_cursor, incomplete):
            buffer.insert_text("\n" + indentation(document.text_before_cursor))
        else:
            run(event)

    @keys.add("escape", "enter")
    def run(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("tab", filter=in_indent & ~choosing)
    def _(event: KeyPressEvent) -> None:
        column = event.current_buffer.document.cursor_position_col
        event.current_buffer.insert_text(INDENT[: len(INDENT) - column % len(INDENT)])

    @keys.add("backspace", filter=in_indent & ~choosing)
    def _(event: KeyPressEvent) -> None:
        column = event.current_buffer.document.cursor_position_col
        event.current_buffer.delete_before_cursor((column - 1) % len(INDENT) + 1 if column else 1)

    return keys
