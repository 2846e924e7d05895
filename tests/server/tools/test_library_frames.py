"""Tracebacks as a model sees them: the frames of installed packages are folded."""

from __future__ import annotations

import pytest
from rmi_agent.server.tools.library_frames import shortened
from rmi_agent.server.tools.run_text import Layout

SITE = "/opt/venv/lib/python3.13/site-packages"
HEAD = f"{'-' * 75}\nOSError                                   Traceback (most recent call last)\n"
CELL = "Cell In[1], line 2\n      1 import pandas as pd\n----> 2 pd.read_csv('nope.csv')\n\n"


def frame(path: str, name: str, line: int = 37) -> str:
    """A frame in IPython's format."""
    parameters = "first_of_many, second_of_many, third_of_many"
    context = f"     {line - 1} # before\n---> {line} {name}_calls()\n     {line + 1} # after\n\n"
    return f"File {path}:{line}, in {name}({parameters})\n{context}"


def line_of(path: str, name: str) -> str:
    """A frame in Python's format."""
    return f'  File "{path}", line 37, in {name}\n    {name}_calls()\n    ~~~~~~~^^\n'


def fold(text: str, section: str = "value", budget: int = 20_000) -> tuple[str, bool]:
    layout = Layout()
    layout.add("stdout", [["printed\n"]])
    layout.add(section, [[text]])
    shown, cut = shortened(layout, budget, "s", 3)
    assert shown.startswith("printed\n")
    return shown.removeprefix("printed\n"), cut


def test_of_frames_in_a_row_the_outer_two_keep_their_lines() -> None:
    inner = "".join(frame(f"{SITE}/pandas/io/b.py", f"f{number}") for number in range(5))
    outer = frame(f"{SITE}/pandas/io/a.py", "read_csv", 1866)
    text = HEAD + CELL + outer + inner + "OSError: nope.csv"
    assert fold(text) == (
        HEAD + CELL + "File …/pandas/io/a.py:1866, in read_csv(…)\n"
        "---> 1866 read_csv_calls()\n"
        "[… 4 frames in pandas …]\n"
        "File …/pandas/io/b.py:37, in f4(…)\n"
        "---> 37 f4_calls()\n\n"
        "OSError: nope.csv",
        True,
    )


def test_frames_of_the_user_are_kept_and_part_the_rows() -> None:
    own = frame("~/projects/mine.py", "mine")
    packages = [frame(f"{SITE}/{name}.py", name) for name in ("a", "b", "_c", "d", "e", "f")]
    shown, _ = fold(HEAD + packages[0] + own + "".join(packages) + CELL + "OSError: x")
    assert own in shown and CELL in shown
    assert "[… 4 frames in b, c, d and more …]\n" in shown


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"{SITE}/pandas/io/a.py", "pandas"),
        ("/usr/lib/python3/dist-packages/apt/cache.py", "apt"),
        ("~/.local/lib/python3.12/site-packages/six.py", "six"),
        ("/usr/lib64/python3.11/json/decoder.py", "json"),
        ("~/.pyenv/versions/3.11.7/lib/python3.11/_pyrepl/x.py", "pyrepl"),
        (r"C:\Python313\Lib\json\decoder.py", "json"),
        (r"C:\venv\Lib\site-packages\pandas\io\a.py", "pandas"),
        ("<frozen importlib._bootstrap>", "importlib"),
        ("pandas/_libs/index.pyx", "pandas"),
    ],
)
def test_what_is_installed_is_known_by_its_path(path: str, name: str) -> None:
    shown, _ = fold(HEAD + CELL + frame(path, "f") * 5 + "OSError: x")
    assert f"[… 3 frames in {name} …]" in shown


@pytest.mark.parametrize(
    "path", ["~/work/a.py", "/home/a/lib/b.py", "/srv/pandas/c.py", "a.py", "<string>"]
)
def test_what_is_not_installed_is_kept(path: str) -> None:
    text = HEAD + CELL + frame(path, "f") * 5 + "OSError: x"
    assert fold(text) == (text, False)


def test_a_short_traceback_is_kept() -> None:
    text = f"{HEAD}{CELL}File {SITE}/a.py:7, in f(x)\n----> 7 g(x)\n\nOSError: x"
    assert fold(text) == (text, False)


def test_lines_that_say_that_there_is_no_source_are_left_out() -> None:
    none = "1 'Could not get source, probably due dynamically evaluated source code.'\n"
    shown, _ = fold(f"{HEAD}{CELL}File <string>:1\n----> {none}\nOSError: x")
    assert shown == f"{HEAD}{CELL}File <string>:1\n\nOSError: x"


def test_the_traceback_of_a_file_is_folded_between_the_outer_two() -> None:
    own = line_of("/srv/main.py", "<module>")
    path = f"{SITE}/pandas/io/a.py"
    again = "  [Previous line repeated 990 more times]\n"
    rows = [line_of(path, name) for name in ("first", "second", "third", "last")]
    head, error = "Traceback (most recent call last):\n", "OSError: x\n"
    text = head + own + rows[0] + rows[1] + again + rows[2] + rows[3] + error
    shown = head + own + rows[0] + "[… 2 frames in pandas …]\n" + rows[3] + error
    assert fold(text, "stderr") == (shown, True)


def test_the_traceback_of_a_group_is_folded_too() -> None:
    frames = line_of(f"{SITE}/anyio/a.py", "f") * 4
    inside = "".join(f"  | {line}\n" for line in frames.splitlines())
    shown, _ = fold(f"  + Exception Group Traceback (most recent call last):\n{inside}  | E: x\n")
    assert "  |   [… 2 frames in anyio …]\n" in shown
    assert shown.count("in f") == 2


def test_printed_tracebacks_are_kept() -> None:
    text = line_of(f"{SITE}/a.py", "f") * 5
    assert fold(text, "stdout") == (text, False)


def test_a_folded_text_that_is_still_too_long_is_cut_at_the_right_place() -> None:
    text = HEAD + CELL + frame(f"{SITE}/a.py", "f") * 9 + "OSError: " + "long words " * 300
    shown, _ = fold(text, budget=1000)
    assert "[… 7 frames in a …]" in shown
    offset = int(shown.partition("offset=")[2].partition(")")[0])
    whole = f"printed\n{text}"
    kept = shown.partition(" characters omitted")[0].rpartition("\n[… ")[0]
    assert whole[:offset].endswith(kept[-40:])


@pytest.mark.parametrize(
    "piece",
    ["File ", "File a:1\n", 'File "', '  File "a", line 1\n', " |", "(", "-> 1 \n", "/lib/"],
)
def test_no_text_takes_too_long(piece: str) -> None:
    for text in (piece * 20_000, "File " + piece * 20_000, f"File {SITE}/{piece * 20_000}"):
        fold(text)
