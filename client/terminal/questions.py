"""Asks the person at the terminal what cells request with `input()` and `getpass()`.

Knows the keyboard and threads; nothing about servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import queue
import sys
from concurrent.futures import Future

from ..plaintext import plain
from .terminal import erase_starting

# How servers put a question to people who may not know that code is running.
ASKS, NO_PROMPT = "The running Python code asks: ", "(a line of input)"


def ask(question: str, secret: bool) -> str | None:
    """Read one line from the terminal or the pipe; None at the end of input."""
    erase_starting()
    try:
        if sys.stdin.isatty():
            question = plain(question)
            return getpass.getpass(question) if secret else input(question)
        return input()
    except EOFError:
        return None


def prompt_of(question: str) -> str:
    """What a question's code asks; the person has typed the code, and knows who asks."""
    prompt = plain(question).removeprefix(ASKS)
    return "" if prompt == NO_PROMPT else prompt


class Questions:
    """Passes cells' questions from the client's thread to the prompt's thread."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[tuple[str, bool, Future[str | None]]] = queue.SimpleQueue()

    async def ask(self, question: str, secret: bool) -> str | None:
        """Wait for the prompt's thread to answer; called in the client's thread."""
        answer: Future[str | None] = Future()
        self._asked.put((question, secret, answer))
        return await asyncio.wrap_future(answer)

    def answer(self) -> None:
        """Ask the pending question, if any; called in the prompt's thread."""
        with contextlib.suppress(queue.Empty):
            question, secret, answer = self._asked.get_nowait()
            text: str | None = None
            try:
                text = ask(prompt_of(question), secret)
            finally:
                if answer.set_running_or_notify_cancel():
                    answer.set_result(text)
