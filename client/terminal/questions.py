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
from .terminal import erase_starting, is_terminal

HIDDEN = "········"  # what the server shows in place of a password
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


class Echoes:
    """Questions with their answers: the server sends them as output, but the terminal has them."""

    def __init__(self) -> None:
        self._left: list[str] = []

    def add(self, prompt: str, answer: str | None, *, secret: bool) -> None:
        """Note what was asked and answered, if that was at a terminal."""
        if answer is not None and is_terminal(sys.stdin) and is_terminal(sys.stdout):
            self._left.append(f"{prompt}{HIDDEN if secret else answer}\n")

    def removed_from(self, text: str) -> str:
        """A text without what the terminal has."""
        for echo in [echo for echo in self._left if echo in text]:
            text = text.replace(echo, "", 1)
            self._left.remove(echo)
        return text


class Questions:
    """Passes cells' questions from the client's thread to the prompt's thread.

    Attributes:
        echoes: those that were answered.
    """

    def __init__(self) -> None:
        self.echoes = Echoes()
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
                prompt = prompt_of(question)
                text = ask(prompt, secret)
                self.echoes.add(prompt, text, secret=secret)
            finally:
                if answer.set_running_or_notify_cancel():
                    answer.set_result(text)
