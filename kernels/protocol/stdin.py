"""What a running cell asks the person: `input()` and `getpass()` on their way.

The kernel waits for the answer; who gets it, and how, is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

REFUSED = "\x04"  # end of transmission; ipykernel makes an EOFError of it
HIDDEN = "········"  # what Jupyter shows for a password


class Question:
    """A question that its cell waits on. As a context manager it is open inside.

    Attributes:
        prompt: the text that the cell gave.
        secret: whether it came from `getpass`: the answer is never shown or kept.
    """

    def __init__(self, prompt: str, secret: bool = False) -> None:
        self.prompt = prompt
        self.secret = secret
        self._answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.cancel()  # nobody waits any more; after an answer this does nothing

    @property
    def open(self) -> bool:
        """Whether an answer still counts."""
        return not self._answer.done()

    def answer(self, text: str) -> None:
        """Give the answer, without a line's end."""
        if self.open:
            self._answer.set_result(text.removeprefix(REFUSED))

    def refuse(self, why: str) -> None:
        """Let the cell go on with an EOFError that says why."""
        if self.open:
            self._answer.set_result(REFUSED + why)

    async def answered(self) -> str:
        """Wait for what the kernel is to be sent."""
        return await asyncio.shield(self._answer)

    def transcript(self) -> str:
        """The question with its answer, as a notebook shows it."""
        answer = self._answer.result()
        if answer.startswith(REFUSED):
            return self.prompt
        return f"{self.prompt}{HIDDEN if self.secret else answer}\n"

    def nobody(self) -> None:
        """An `OnQuestion` for where no person is."""
        self.refuse("nobody can be asked here: give the value in the code")


OnQuestion = Callable[[Question], None]
