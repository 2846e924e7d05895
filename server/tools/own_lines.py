"""The server's own lines in a result, and the mark before printed lines that imitate them.

Everything the server says about a run has one of these forms. If code prints such a form, even
with common lookalikes of its letters and signs, the line gets a leading backslash, so that a
reader can tell who said it. Knows only lines.
"""

# ruff: noqa: RUF001 (lookalike letters are what this module is about)
from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ..plaintext import plain

STDERR = "--- stderr ---"
NOTHING = "(No output)"
EXIT = "[Process exited with code "
SESSION = "[session_id: "
NOTE = "[rmi-agent: "
CUT = "[… "

# Lines are compared after reduction by `letters`: no case, accents or blanks, and repeated dashes
# count as one. A form with a newline matches a whole line, the others match its start. Of the cut
# marks, a bracket and an ellipsis are enough; three dots are not, as in the list `[...]`.
_FORMS = (
    "-stderr-\n",
    "(nooutput)\n",
    "[processexitedwithcode",
    "[session_id:",
    "[session-id:",
    "[sessionid:",
    "[rmi-agent:",
    "[rmiagent:",
    "[⋯",
    *(f"[...{letter}" for letter in "0" + string.ascii_lowercase),
)
_LIKE = {  # lookalikes of our letters and signs that Unicode names or decomposes differently
    ord(other): letter
    for letter, others in {
        "a": "аαɑ⍺ꓮᎪᗅ", "c": "сϲⲥꓚᏟ", "d": "ԁꓓᎠᏧᑯᗞᗪ", "e": "еєεҽ℮⋿ⴹꓰᎬ", "g": "ցԌꓖᏀᏳ",
        "h": "Ηнһհⲏꓧ𐋏ᎻᏂᕼ", "i": "lіɩιӏ|∣ǀ⍳ꙇⵏꓲᎥ", "m": "мΜϺⲙꓟᎷᗰ", "n": "ոռпΝηⲛꓠ", "o": "оοσօⲟⵔꓳ〇ჿ",
        "p": "рρ⍴ⲣꓑᏢᑭ", "r": "гᴦⲅƦꓣᎡᏒᖇ", "s": "ѕՏꓢᏕᏚ", "t": "тτⲧ⊤⟙ꓔᎢ", "u": "սυμʋ∪⋃ꓴᑌ",
        "w": "ԝѡшաωꓪᎳᏔ", "x": "хχ×ⲭⵝꓫᕁ᙭ᚷ",
        "-": "−˗⁃⁒➖─━┄┅┈┉╌╍═╴╶╸╺╼╾⎯⎺⎻⎼⎽¯ˉˍ‾﹉﹊￣ーｰㅡᅳￚ一㆒㊀㇐ᐨ",
        ":": "։׃܃܄⁚᛬᠃᠉︰˸ː∶꞉ꓽः", ".": "ꓸ܁܂", "⋯": "…︙",
    }.items()
    for other in others
}  # fmt: skip
# ø, ʀ, 🅿, 🇵: letters with a stroke or a hook, small capitals, letters in shapes.
_LATIN = re.compile(
    "(?:LATIN (?:SMALL |CAPITAL )?|SYMBOL )LETTER (?:SMALL CAPITAL |SCRIPT )?([A-Z])(?: WITH.*)?$"
)
_WORD_DASHES = "".join(
    chr(code) for code, like in _LIKE.items() if like == "-" and chr(code).isalnum()
)
_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0"
_BLANK_SIGNS = "\u2800\U0001d159"
_BLANKS = re.compile(r"[^\S\n]*+")
_STRETCH = 8, 4096  # characters of a line compared per step: at first, and at most


class Node(dict[str, "Node | bool"]):
    """A trie node: maps a line's next letter to a node, or to True where the line is like ours."""


def _nodes() -> Node:
    start = Node()
    for form in _FORMS:
        node: Any = start
        for letter in form[:-1]:
            behind = node.setdefault(letter, Node())
            if letter == "-":
                behind["-"] = behind
            node = behind
        node[form[-1]] = True
    return start


def _candidate() -> re.Pattern[str]:
    """Matches starts of lines that may be like ours; the first letters rule out most lines."""
    begun = ""
    for first in sorted(_START):
        second = "".join(sorted({form[1] for form in _FORMS if form[0] == first}))
        begun += rf"\{first}[{'-' if first == '-' else ''} \t]*+"
        begun += rf"(?:[{re.escape(second + second.upper())}]|[^\t\n\x20-\x7e]|\Z)|"
    return re.compile(
        rf"\n(?=[ \t]*+(?:{begun}[^\w\t\n\x20-\x7e]|[{_BLANK_LETTERS}{_WORD_DASHES}]|\Z))"
    )


_START = _nodes()
_CANDIDATE = _candidate()


class Marker:
    """Marks lines of a text that arrives in pieces; where it was split makes no difference.

    Attributes:
        inside: whether the text returned so far ends in the middle of a line.
    """

    def __init__(self) -> None:
        self.inside = False
        self._held: list[str] = []  # the start of a line that may turn out to be like ours
        self._node = _START  # the node reached by the held letters

    def feed(self, text: str) -> str:
        """Add text; returns what is certain by now and was not returned before."""
        if not text:
            return ""
        made, done = [], 0  # done: characters of `text` already in `made`
        for begin in self._begins(text):
            found = compared(self._node, text, begin)
            if isinstance(found, Node):  # the line continues in the next piece
                self._node = found
                made.append(text[done:begin])
                if begin:
                    self._held = []
                self._held.append(text[begin:])
                return self._returned(made)
            self._node = _START
            if found:
                made += (text[done:begin], "\\")
                done = begin
            if not begin:
                made += self._held
                self._held = []
        made.append(text[done:])
        return self._returned(made)

    def end(self) -> str:
        """End the text; returns the rest."""
        mark = ["\\"] if self._node.get("\n") else []
        rest, self._held, self._node = mark + self._held, [], _START
        return self._returned(rest)

    def _begins(self, text: str) -> Iterator[int]:
        """Where a line that may be like ours starts, or the held one continues."""
        if self._held or not self.inside:
            yield 0
        yield from (found.end() for found in _CANDIDATE.finditer(text))

    def _returned(self, pieces: list[str]) -> str:
        text = "".join(pieces)
        if text:
            self.inside = not text.endswith("\n")
        return text


def compared(node: Node, text: str, start: int) -> Node | bool:
    """Whether a line looks like ours; a node if the text ends before that is certain.

    Args:
        node: the node reached by the part of the line before `start`.
        text: contains the line from `start` on.
        start: a position in `text`.
    """
    stretch, most = _STRETCH
    while start < len(text):
        for character in text[start : start + stretch]:
            if character == "\n":
                return "\n" in node
            for letter in letters(character):
                found = node.get(letter, False)
                if not isinstance(found, Node):
                    return found
                node = found
        blanks = _BLANKS.match(text, start + stretch)
        start, stretch = blanks.end() if blanks else len(text), min(2 * stretch, most)
    return node


@lru_cache(maxsize=4096)
def letters(character: str) -> str:
    """What a character looks like, in plain lower-case letters and signs; empty if it is blank."""
    made = ""
    like = unicodedata.normalize("NFKD", character.translate(_LIKE)).translate(_LIKE)
    for letter in like.casefold():
        name = unicodedata.name(letter, "")
        if latin := _LATIN.search(name):
            letter = latin[1].lower()
        letter = letter.translate(_LIKE)
        category = unicodedata.category(letter)
        if category[0] in "ZC" or category in ("Mn", "Me"):
            continue
        if letter in _BLANK_LETTERS + _BLANK_SIGNS:
            continue
        if category == "Nd":  # 0 and 1 look like letters; all others count as one
            letter = "oi0"[min(unicodedata.decimal(letter), 2)]
        elif category in ("Ps", "Pe") and letter not in "{}":
            is_round = "PARENTHESIS" in name
            letter = ("(" if is_round else "[") if category == "Ps" else (")" if is_round else "]")
        made += {"Pd": "-", "Pc": "_"}.get(category, letter)
    is_letter = character.isalnum() and character not in _BLANK_LETTERS
    return made or (character if is_letter else "")  # some letters decompose to blank and accent


def marked(text: str) -> str:
    """A whole text with the lines that look like ours marked."""
    marker = Marker()
    return marker.feed(text) + marker.end()


def printed(text: str) -> str:
    """A whole text from code, made safe for a reader: plain and marked."""
    return marked(plain(text))


def fragment(text: str, before: str, behind: str = "") -> str:
    """A slice of a marked text; a line cut at either end is marked as if it were a whole line.

    Args:
        text: the slice.
        before: the character before it; empty if there is none.
        behind: the character after it; empty if there is none.
    """
    if before not in ("", "\n"):
        line, newline, rest = text.partition("\n")
        text = f"{marked(line)}{newline}{rest}"
    if behind not in ("", "\n"):  # a line like ours by its start is already marked, or ours
        start = text.rfind("\n") + 1
        found = compared(_START, text, start)
        if isinstance(found, Node) and "\n" in found:
            text = f"{text[:start]}\\{text[start:]}"
    return text


def note(text: str) -> str:
    """One of the server's own lines; what it quotes from code is made plain and marked."""
    return f"{NOTE}{printed(text.strip())}]"
