"""Errors that end a command with one line, because only the person who started it can fix them."""

from __future__ import annotations


class BadSettings(Exception):
    """A setting has a value that can't be used; the text is one line naming the variable."""
