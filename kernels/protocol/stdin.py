"""Questions of a running cell to the user: pending calls of `input()` and `getpass()`.

The kernel waits for the answer; this module does not know who is asked, or how.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

REFUSED = "\x04"  # end of transmission; ipykernel turns it into an EOFError
HIDDEN = "········"  # what Jupyter shows in place of a password


class Question:
    """A question that its cell waits on. A context manager: leaving it closes the question.

    Attributes:
        prompt: the cell's prompt text.
        secret: whether it came from `getpass`, so that the answer is never shown or stored.
    """

    def __init__(self, prompt: str, secret: bool = False) -> None:
        self.prompt = prompt
        self.secret = secret
        self._answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.cancel()  # nobody waits any more; no effect after an answer

    @property
    def open(self) -> bool:
        """Whether the question can still be answered."""
        return not self._answer.done()

    def answer(self, text: str) -> None:
        """Answer the question; `text` has no line break at its end."""
        if self.open:
            self._answer.set_result(text.removeprefix(REFUSED))

    def refuse(self, why: str) -> None:
        """Raise an EOFError in the cell that says why."""
        if self.open:
            self._answer.set_result(REFUSED + why)

    def withdraw(self) -> None:
        """Close the question, since its cell was interrupted: an answer would be the next one's."""
        if self.open:
            self._answer.set_result(None)

    async def answered(self) -> str | None:
        """Wait for the text to send to the kernel; None if it waits no more."""
        return await asyncio.shield(self._answer)

    def transcript(self) -> str:
        """The question with its answer, as a notebook shows it."""
        answer = self._answer.result()
        if answer is None or answer.startswith(REFUSED):
            return self.prompt
        return f"{self.prompt}{HIDDEN if self.secret else answer}\n"

    def nobody(self) -> None:
        """Refuse the question: the `OnQuestion` to use when there is no user to ask."""
        self.refuse("there is nobody to ask here: put the value in the code")


OnQuestion = Callable[[Question], None]
