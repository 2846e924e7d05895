"""Pictures: which protocol a terminal is spoken to by, what it is sent, and what is saved."""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from rmi_agent.client import Picture
from rmi_agent.client.terminal import pictures, show_picture
from rmi_agent.client.terminal.pictures import draw, iterm, kitty, protocol, save


def png(width: int = 30, height: int = 20) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "png")
    return file.getvalue()


PNG = png()
PICTURE = Picture("image/png", PNG)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A terminal of no skill, whose user's cache is the test's."""
    for name in ("TMUX", "STY", "TERM_PROGRAM", "LC_TERMINAL", "KITTY_WINDOW_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(pictures, "supports_sixels", lambda: False)
    monkeypatch.setattr(pictures, "window", lambda: (80, 0))
    return Screen()


@pytest.mark.parametrize(
    ("environ", "spoken"),
    [
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"KITTY_WINDOW_ID": "1", "TERM": "xterm-256color"}, "kitty"),
        ({"TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color"}, None),
        ({"LC_TERMINAL": "iTerm2", "TMUX": "/tmp/x"}, None),
        ({"KITTY_WINDOW_ID": "1", "STY": "1"}, None),
    ],
)
def test_the_terminal_says_what_it_speaks(environ: dict[str, str], spoken: str | None) -> None:
    assert protocol(environ) == spoken


def test_iterm_gets_the_file_whole() -> None:
    sent = re.fullmatch(r"\x1b]1337;File=inline=1;size=(\d+):([^\a]*)\a\n", iterm(PICTURE))
    assert sent is not None
    assert int(sent[1]) == len(PNG)
    assert base64.b64decode(sent[2]) == PNG


def test_kitty_gets_the_file_in_pieces_and_a_wide_one_is_fitted() -> None:
    data = PNG + os.urandom(10_000)
    sent = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", kitty(data, 80, 800))
    assert base64.b64decode("".join(piece for _, piece in sent)) == data
    assert [keys for keys, _ in sent] == ["a=T,f=100,q=2,m=1", "m=1", "m=1", "m=0"]
    assert max(len(piece) for _, piece in sent) == 4096
    wide = png(900)
    assert ",c=80," in kitty(wide, 80, 800)
    assert ",c=80," not in kitty(wide, 80, 0)


@pytest.mark.parametrize(
    ("name", "word", "begins"),
    [("TERM_PROGRAM", "iTerm.app", "\x1b]1337;"), ("TERM", "xterm-kitty", "\x1b_Ga=T")],
)
def test_a_terminal_that_can_is_drawn_into(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, name: str, word: str, begins: str
) -> None:
    monkeypatch.setenv(name, word)
    monkeypatch.setattr(sys, "stdout", screen)
    assert draw(PICTURE)
    assert screen.getvalue().startswith(begins)


def test_sixels_are_drawn_where_the_terminal_knows_them(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "supports_sixels", lambda: True)
    monkeypatch.setattr(sys, "stdout", screen)
    assert draw(PICTURE)
    assert "\x1bP" in screen.getvalue()
    assert not draw(Picture("image/png", b"none"))


def test_a_pipe_and_a_dumb_terminal_get_a_files_path(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM_PROGRAM", "iTerm.app")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stdout", screen)
    show_picture(PICTURE)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    show_picture(Picture("image/jpeg", b"jpeg"))
    told = capsys.readouterr().err
    first, second = (Path(line[10:-1]) for line in told.splitlines())
    assert (first.read_bytes(), first.suffix) == (PNG, ".png")
    assert (second.read_bytes(), second.suffix) == (b"jpeg", ".jpg")
    assert "\x1b" not in told + screen.getvalue()


def test_saved_pictures_are_their_users_alone_and_go_after_a_month(screen: Screen) -> None:
    first = save(PICTURE)
    assert first.stat().st_mode & 0o777 == 0o600 or sys.platform == "win32"
    assert first.parent.stat().st_mode & 0o777 == 0o700 or sys.platform == "win32"
    month = time.time() - 31 * 24 * 3600
    os.utime(first, (month, month))
    second = save(PICTURE)
    assert list(second.parent.iterdir()) == [second]


def test_a_picture_that_can_not_be_saved_is_said_so(
    screen: Screen, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rmi-agent").write_text("in the way")
    show_picture(PICTURE)
    assert "could not be saved" in capsys.readouterr().err
