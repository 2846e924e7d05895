"""Cleans text for a reader: removes what a terminal would obey and what only programs see.

Removes escape sequences, controls, bidirectional overrides and invisible characters; Unicode's
other line ends become newlines. Knows only text. Server and client each have a copy of this file,
since neither may import the other; a test compares the two.
"""

from __future__ import annotations

import re

# Invisible characters to remove. Joiners and emoji variation selectors stay: scripts need them.
# Soft hyphens, direction marks, tags and the other variation selectors don't show, and can carry
# text that a model reads but a person never sees.
INVISIBLE = (
    "\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_CONTROLS = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_SPECIAL = re.compile(f"[{_CONTROLS}\r\u2028\u2029{INVISIBLE}]")
_SPECIAL_ASCII = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
# ECMA-48. A command string (a title, link or picture) ends at its terminator or at the line's end.
# Wrongly decoded text also contains the 8-bit forms, so those count only with their arguments.
_STRING = r"[^\x00-\x1f\x7f-\x9f]*"
_SEQUENCES = re.compile(
    rf"\x1b\[[0-?]*[ -/]*[@-~]?|\x1b[PX\]^_]{_STRING}|\x1b[ -/]*[0-~]?"
    rf"|\x9b[0-?]+[ -/]*[@-~]?|\x9d[0-9]{_STRING}|[{_CONTROLS}{INVISIBLE}]"
)
_NEWLINES = re.compile("\r\n?|[\u2028\u2029]")
# Patterns for an unfinished sequence at the end of a piece, each with a short equivalent to carry
# over to the next piece.
_BEGUN = (
    (re.compile(r"(?:\x1b\[|\x9b[0-?])[0-?]*"), "\x1b["),
    (re.compile(r"(?:\x1b\[|\x9b[0-?])[0-?]*[ -/]+"), "\x1b[ "),
    (re.compile(rf"(?:\x1b[PX\]^_]|\x9d[0-9]){_STRING}"), "\x1b]"),
    (re.compile(r"\x1b"), "\x1b"),
    (re.compile(r"\x1b[ -/]+"), "\x1b "),
    (re.compile(r"\x9b"), "\x9b"),
    (re.compile(r"\x9d"), "\x9d"),
)


class Plain:
    """Cleans text that arrives in pieces; the result does not depend on where it was split."""

    def __init__(self) -> None:
        self._begun = ""  # unfinished sequence that the next piece may complete

    def feed(self, text: str) -> str:
        """Add a piece; returns the clean text that is now certain and was not returned before."""
        text = self._begun + text
        if (_SPECIAL_ASCII if text.isascii() else _SPECIAL).search(text) is None:
            self._begun = ""
            return text
        start = max(map(text.rfind, "\x1b\x9b\x9d"))
        begun = next((same for rest, same in _BEGUN if rest.fullmatch(text, max(0, start))), "")
        text = _SEQUENCES.sub("", text)
        if text.endswith("\r"):  # a newline may follow
            text, begun = text[:-1], "\r" + begun
        self._begun = begun
        return _NEWLINES.sub("\n", text)

    def end(self) -> str:
        """Return the rest of the text, after the last piece."""
        rest = "\n" if self._begun.startswith("\r") else ""
        self._begun = ""
        return rest


def plain(text: str) -> str:
    """Clean a whole text: removes controls except tab and newline, and invisible characters."""
    whole = Plain()
    return whole.feed(text) + whole.end()
