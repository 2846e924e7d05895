"""What an error says, and what caused it, for a person's eyes."""

from __future__ import annotations

from collections.abc import Iterator

from .plaintext import plain


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def one_line(error: BaseException) -> str:
    """What an error says, in one line; a library's report on invalid data in our own words."""
    if type(error).__name__ == "ValidationError" or "validation error" in str(error):
        return "it does not speak MCP, or not as we do."
    text = " ".join(plain(str(error)).split()).removeprefix("Client failed to connect: ")
    return text[:500] or type(error).__name__
