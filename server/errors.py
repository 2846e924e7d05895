"""What ends a command with one line: something that only the person who started it can change."""

from __future__ import annotations


class BadSettings(Exception):
    """A setting has a value that can't be used; the text is one line naming the variable."""
