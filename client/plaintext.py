"""Text for a reader: without what a terminal would obey, and without what only programs see.

Escape sequences, controls, bidirectional overrides and invisible characters go; Unicode's other
line ends become newlines. Knows text alone. Server and client have this file each, since neither
may import the other; a test compares the two.
"""

from __future__ import annotations

import re

# What is ever taken out begins with one of these. Joiners and the variation selectors of emoji
# stay: scripts need them. Soft hyphens, marks of direction, tags and the selectors beyond don't
# show, and can carry a text that a model reads and a person never sees.
INVISIBLE = (
    "\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_CONTROLS = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_SPECIAL = re.compile(f"[{_CONTROLS}\r\u2028\u2029{INVISIBLE}]")
_SPECIAL_ASCII = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
# ECMA-48. A command string (a title, a link, a picture) ends with its terminator or its line.
# The 8-bit forms are also what wrongly decoded text has, so they need their arguments.
_STRING = r"[^\x00-\x1f\x7f-\x9f]*"
_SEQUENCES = re.compile(
    rf"\x1b\[[0-?]*[ -/]*[@-~]?|\x1b[PX\]^_]{_STRING}|\x1b[ -/]*[0-~]?"
    rf"|\x9b[0-?]+[ -/]*[@-~]?|\x9d[0-9]{_STRING}|[{_CONTROLS}{INVISIBLE}]"
)
_NEWLINES = re.compile("\r\n?|[\u2028\u2029]")
# The beginning of a sequence at the end of a piece, and a short one that goes on the same way.
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
    """Text that comes in pieces; however it was cut up, the result is the same."""

    def __init__(self) -> None:
        self._begun = ""  # what the next piece may be the rest of

    def feed(self, text: str) -> str:
        """What of the text so far is certain, and was not returned before."""
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
        """The rest: nothing more comes."""
        rest = "\n" if self._begun.startswith("\r") else ""
        self._begun = ""
        return rest


def plain(text: str) -> str:
    """A whole text without controls but tab and newline, and without invisible characters."""
    whole = Plain()
    return whole.feed(text) + whole.end()
