"""Numbers of things in messages, as English has them. Knows only nouns with a regular plural."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """A number of things, such as `1 cell` and `1,000 more cells`."""
    ending = "" if number == 1 else "es" if thing.endswith("s") else "s"
    return f"{number:,} {thing}{ending}"
