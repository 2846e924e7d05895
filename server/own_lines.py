"""The lines of a result that are the server's own, and the mark before a line that only looks so.

Everything that the server says about a run has one of these forms. What code prints in such a
form gets a backslash in front, so that a reader can tell who said it. Knows lines alone.
"""

from __future__ import annotations

import re

from .plaintext import plain

STDERR = "--- stderr ---"
NOTHING = "(No output)"
EXIT = "[Process exited with code "
SESSION = "[session_id: "
NOTE = "[rmi-agent: "
CUT = "[… "

# What stands unseen or unnoticed between two letters: spaces, joiners, selectors, blank letters.
_UNSEEN = r"\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200c\u200d\u2800\u3164\ufe00-\ufe0f\uffa0"
_GAP = rf"[^\S\n]|[{_UNSEEN}]"
_FORMS = tuple(
    "".join(form.split()).lower() for form in (STDERR, NOTHING, EXIT, SESSION, NOTE, CUT)
)
_INDENT, _SPACE = 40, 4  # as many gaps before a line, and between two of its letters, count
_LONGEST = _INDENT + max(map(len, _FORMS)) * (_SPACE + 1)  # characters that decide


def _pattern(form: str) -> str:
    letters = (f"[{re.escape(c)}{re.escape(c.upper())}]" for c in form)
    return rf"(?:{_GAP}){{0,{_SPACE}}}".join(letters)


_OURS = re.compile(rf"\n(?=(?:{_GAP}){{0,{_INDENT}}}(?:{'|'.join(map(_pattern, _FORMS))}))")
_GAPS = re.compile(_GAP)


class Marker:
    """Marks the lines of a text that comes in pieces; however it was cut up, the same way.

    Attributes:
        inside: whether what was returned so far ends inside of a line.
    """

    def __init__(self) -> None:
        self.inside = False
        self._undecided = ""  # the beginning of a line that may become one like ours

    def feed(self, text: str) -> str:
        """What of the text so far is certain, and was not returned before."""
        text = self._undecided + text
        start = text.rfind("\n") + 1
        last = text[start : start + _LONGEST + 1]
        self._undecided = ""
        if (start or not self.inside) and may_become_ours(last):
            text, self._undecided = text[:start], last
        return self._marked(text)

    def end(self) -> str:
        """The rest: nothing more comes."""
        text, self._undecided = self._undecided, ""
        return self._marked(text)

    def _marked(self, text: str) -> str:
        if not text:
            return ""
        text = text if self.inside else f"\n{text}"
        marked = _OURS.sub(r"\n\\", text)
        marked = marked if self.inside else marked[1:]
        self.inside = not text.endswith("\n")
        return marked


def may_become_ours(line: str) -> bool:
    """Whether a line that has only begun can still become one that looks like ours."""
    if not line or len(line) > _LONGEST:
        return False
    begun = _GAPS.sub("", line).lower()
    return any(form.startswith(begun) and form != begun for form in _FORMS)


def marked(text: str) -> str:
    """A whole text with its lines marked."""
    marker = Marker()
    return marker.feed(text) + marker.end()


def printed(text: str) -> str:
    """A whole text of the code's own as a reader may have it: plain and marked."""
    return marked(plain(text))


def note(text: str) -> str:
    """A line of the server's own, also where it quotes the code."""
    return f"{NOTE}{printed(text.strip())}]"
