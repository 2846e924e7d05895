"""What is written to a terminal or a pipe, and what happens if it can't be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.text import Text
from rmi_agent.client.terminal import terminal, write_message, write_text
from rmi_agent.client.terminal.screen import unshown

WRITES = "from rmi_agent.client.terminal import write\nwhile True: write('stdout', 'x' * 1000)"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_reader_that_has_read_enough_ends_the_command_quietly() -> None:
    command = [sys.executable, "-c", WRITES]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert (process.wait(20), process.stderr.read()) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", WRITES], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == b"The output can't be written: No space left on device.\n"


def test_messages_are_broken_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "Recorded in /a/long/path/of-one/notebook.ipynb and more\n\nnext"
    write_message(text)
    assert capsys.readouterr().err == f"{text}\n"
    monkeypatch.setattr(terminal, "is_terminal", lambda _: True)
    monkeypatch.setitem(os.environ, "COLUMNS", "24")
    write_message(text)
    assert capsys.readouterr().err == (
        "Recorded in\n/a/long/path/of-one/notebook.ipynb\nand more\n\nnext\n"
    )


@pytest.mark.parametrize("wraps", [False, True])
def test_text_is_broken_between_words_if_it_wraps(
    wraps: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "24")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    write_text(Text("[Stopped by its user; variables kept.]"), wraps=wraps)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    broken = ["[Stopped by its user;", "variables kept.]"]
    assert lines == (broken if wraps else [" ".join(broken)])


@pytest.mark.parametrize(
    ("text", "shown", "left"),
    [
        ("one\ntwo\n", "one\n", "two\n"),
        ("done      \nmore\n", "working...\ndone", "      \nmore\n"),
        ("a\ndone  \nb\nc", "a\nworking\ndone  \nb\n", "c"),
        ("x\nx\nx\n", "y\nx\n", "x\nx\n"),  # rather twice than not at all
        ("new\n", "old\n", "\nnew\n"),
        ("new\n", "\n\n", "\nnew\n"),
        ("", "old", "\n"),
    ],
)
def test_output_that_was_shown_is_not_shown_again(text: str, shown: str, left: str) -> None:
    assert unshown(text, shown) == left
