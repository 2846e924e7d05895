"""Draws pictures if the terminal can, and saves them to files if it can't.

Speaks iTerm2's and kitty's protocols itself, and sixel through the library textual-image if
that is installed. Draws nothing into a pipe.
"""

from __future__ import annotations

import base64
import functools
import importlib.util
import os
import re
import struct
import sys
import tempfile
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Literal

import platformdirs

from ..results import Picture
from .terminal import is_dumb, is_terminal, write

Protocol = Literal["iterm", "kitty"]

SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp"}
MAX_AGE = 30 * 24 * 3600  # seconds after which saved pictures are deleted
ANSWER_TIMEOUT = 0.5  # max seconds for a terminal to answer
CHUNK = 4096  # max characters per message of kitty's protocol


def show_picture(picture: Picture) -> None:
    """Draw a picture if the terminal can; otherwise save it and print where."""
    if not draw(picture):
        try:
            write("stderr", f"[picture: {save(picture)}]\n")
        except OSError as error:
            write("stderr", f"[a picture could not be saved: {error}; the notebook has it]\n")


def draw(picture: Picture) -> bool:
    """Draw a picture if the terminal can; whether it could."""
    if not is_terminal(sys.stdout) or is_dumb():
        return False
    way = protocol(os.environ)
    if way == "iterm":
        emit(iterm(picture))
    elif way == "kitty" and picture.mime_type == "image/png":
        emit(kitty(picture.data, *window()))
    else:
        return way is None and draw_sixels(picture)
    return True


def protocol(environ: Mapping[str, str]) -> Protocol | None:
    """The protocol that the environment names; multiplexers inherit the name, not the support."""
    if "TMUX" in environ or "STY" in environ:
        return None
    program, term = environ.get("TERM_PROGRAM", ""), environ.get("TERM", "")
    if program in ("iTerm.app", "WezTerm", "mintty") or environ.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    if program == "ghostty" or term in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    return "kitty" if "KITTY_WINDOW_ID" in environ else None


def iterm(picture: Picture) -> str:
    """Encode a picture for iTerm2, which shrinks wide ones (iterm2.com/documentation-images)."""
    data = base64.b64encode(picture.data).decode()
    return f"\x1b]1337;File=inline=1;size={len(picture.data)}:{data}\a\n"


def kitty(png: bytes, columns: int, pixels: int) -> str:
    """Encode a PNG for kitty, in chunks (sw.kovidgoyal.net/kitty/graphics-protocol).

    Args:
        png: the picture.
        columns: the terminal's width in columns.
        pixels: its width in pixels; 0 if unknown.
    """
    width = struct.unpack(">I", png[16:20])[0] if len(png) >= 24 else 0
    fit = f",c={columns}" if pixels and width > pixels else ""
    data = base64.b64encode(png).decode()
    pieces = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
    head = f"a=T,f=100,q=2{fit},"  # q=2: no reply, which would look like typing
    return (
        "".join(
            f"\x1b_G{head if at == 0 else ''}m={int(at < len(pieces) - 1)};{piece}\x1b\\"
            for at, piece in enumerate(pieces)
        )
        + "\n"
    )


def window() -> tuple[int, int]:
    """The terminal's width in columns and in pixels; 0 pixels if unknown."""
    if sys.platform == "win32":
        return os.get_terminal_size().columns, 0
    import fcntl
    import termios

    size = fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, bytes(8))
    _, columns, pixels, _ = struct.unpack("HHHH", size)
    return columns, pixels


def emit(sequence: str) -> None:
    """Write an escape sequence to the terminal."""
    sys.stdout.write(sequence)
    sys.stdout.flush()


def draw_sixels(picture: Picture) -> bool:
    """Draw with sixels if the library is installed and the terminal supports them."""
    if importlib.util.find_spec("textual_image") is None or not supports_sixels():
        return False
    from rich.console import Console

    # Lazy: on import it sends queries that some terminals print as text.
    from textual_image.renderable import SixelImage

    try:
        Console().print(SixelImage(BytesIO(picture.data)))
    except (OSError, ValueError):  # Pillow can't read the picture
        return False
    return True


@functools.cache
def supports_sixels() -> bool:
    """Whether the terminal reports sixel support (DA1); queried once, False if it can't be."""
    if sys.platform == "win32" or not is_terminal(sys.stdin):
        return False
    import select
    import termios
    import tty

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    answer, ends = b"", time.monotonic() + ANSWER_TIMEOUT
    try:
        tty.setcbreak(keyboard, termios.TCSANOW)
        emit("\x1b[c")
        while not answer.endswith(b"c") and (left := ends - time.monotonic()) > 0:
            if select.select([keyboard], [], [], left)[0]:
                answer += os.read(keyboard, 1)
    finally:
        termios.tcsetattr(keyboard, termios.TCSANOW, before)
    skills = re.search(rb"\x1b\[\?([\d;]*)c", answer)
    return skills is not None and b"4" in skills[1].split(b";")


def save(picture: Picture) -> Path:
    """Save a picture in a folder private to the user, and delete those older than 30 days.

    Raises:
        OSError: the folder can't be written to.
    """
    folder = platformdirs.user_cache_path("rmi-agent", appauthor=False) / "pictures"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    now = time.time()
    for old in folder.iterdir():
        if now - old.stat().st_mtime > MAX_AGE:
            old.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(
        SUFFIXES.get(picture.mime_type, ".bin"), time.strftime("%Y%m%d-%H%M%S-"), folder
    )
    with open(handle, "wb") as file:
        file.write(picture.data)
    return Path(name)
