"""Files under the projects folder, on every system; test_hostile_names.py has all odd names."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from rmi_agent.kernels import decoded
from rmi_agent.server.errors import PathNotAllowedError
from rmi_agent.server.files import project_files as paths
from rmi_agent.server.files.project_files import MOST

ORDINARY = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="nothing is forbidden to root"
)
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path.resolve() / "projects"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.py").write_text("print('a')")
    (folder / "sub" / "b.py").write_text("print('b')")
    (folder / "notes.txt").write_text("n")
    (folder / "folder.py").mkdir()
    (tmp_path / "secret.py").write_text("secret")
    return folder


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.py", "a.py"),
        ("./a.py", "a.py"),
        ("sub/b.py", "sub/b.py"),
        ("sub/../a.py", "a.py"),
        ("projects/a.py", "a.py"),
        ("projects/sub/b.py", "sub/b.py"),
        ("../projects/a.py", "a.py"),
    ],
)
def test_a_name_is_relative_to_the_root(root: Path, name: str, found: str) -> None:
    assert paths.read_python(root, name).name == found


def test_a_folder_that_is_really_there_goes_before_the_root_name(root: Path) -> None:
    (root / "projects").mkdir()
    (root / "projects" / "a.py").write_text("inner")
    assert paths.read_python(root, "projects/a.py").source == b"inner"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sub/missing.py", "Error: File not found: sub/missing.py"),
        ("folder.py", "Error: Path is not a file: folder.py"),
        ("notes.txt", "Error: File must have .py extension: notes.txt"),
    ],
)
def test_each_mistake_has_its_words(root: Path, name: str, words: str) -> None:
    with pytest.raises(PathNotAllowedError) as error:
        paths.read_python(root, name)
    assert str(error.value).startswith(words)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("a", "a.py"),
        ("A.py", "a.py"),
        ("b.py", "sub/b.py"),
        ("sub/hello_wrold.py", "sub/hello_world.py"),
        ("helloworld", "sub/hello_world.py"),
        ("'hello_world.py'", "sub/hello_world.py"),
        ("projects/Sub\\B.py", "sub/b.py"),
        ("quite_another.py", None),
        ("c.py", None),
    ],
)
def test_a_file_that_is_not_there_may_be_another(root: Path, name: str, meant: str | None) -> None:
    (root / "sub" / "hello_world.py").write_text("")
    advice = f"Did you mean {meant}?" if meant else "list_files lists the files."
    with pytest.raises(PathNotAllowedError) as error:
        paths.read_python(root, name)
    assert str(error.value) == f"Error: File not found: {name}. {advice}"


@POSIX
def test_a_file_with_a_backslash_in_its_name_can_be_read_and_replaced(root: Path) -> None:
    (root / "x\\y.py").write_text("1")
    assert paths.read_python(root, "x\\y.py").source == b"1"
    assert paths.write(root, "x\\y.py", "2") == ("x\\y.py", False)
    assert (root / "x\\y.py").read_text() == "2"


@pytest.mark.parametrize(
    "name",
    [
        "../secret.py",
        "../missing.py",
        "/etc/passwd",
        "sub/../../secret.py",
    ],
)
def test_outside_the_root_access_is_denied_whatever_is_there(root: Path, name: str) -> None:
    with pytest.raises(PathNotAllowedError, match="^Error: Access denied: File must be within"):
        paths.read_python(root, name)


@POSIX
def test_a_huge_file_is_refused_without_being_read(root: Path) -> None:
    with (root / "huge.py").open("wb") as file:
        file.truncate(2 * 1024**3)
    with pytest.raises(PathNotAllowedError, match="2,147,483,648 bytes"):
        paths.read_python(root, "huge.py")


@POSIX
def test_a_sparse_file_of_a_terabyte_is_refused_without_being_read(root: Path) -> None:
    with (root / "sparse.py").open("wb") as file:
        try:
            file.truncate(1024**4)
        except OSError:
            pytest.skip("this file system has no files of that size")
    with pytest.raises(PathNotAllowedError, match="1,099,511,627,776 bytes"):
        paths.read_python(root, "sparse.py")


def test_a_file_that_grows_while_it_is_read_is_cut_off_at_the_limit(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fstat = os.fstat

    def then_it_grows(handle: int) -> os.stat_result:
        status = fstat(handle)
        with (root / "a.py").open("ab") as file:
            file.write(b"#" * MOST)
        return status

    monkeypatch.setattr(os, "fstat", then_it_grows)
    with pytest.raises(PathNotAllowedError, match="at most 10,000,000 are read"):
        paths.read_python(root, "a.py")


SOURCES = {
    "empty": (b"", ""),
    "UTF-8": ("é = '→'".encode(), "é = '→'"),
    "byte order mark": (b"\xef\xbb\xbfx = 1", "x = 1"),
    "coding line": ("# coding: latin-1\nx = 'é'".encode("latin-1"), "# coding: latin-1\nx = 'é'"),
    "second line": (b"\n# coding: koi8-r\n#\xc1", "\n# coding: koi8-r\n#а"),  # noqa: RUF001
    "unknown coding": (b"# coding: none-such\nx", "# coding: none-such\nx"),
    "coding of no text": (b"# coding: hex\nx", "# coding: hex\nx"),
    "coding that is undefined": (b"# coding: undefined\nx", "# coding: undefined\nx"),
    "coding that takes hours": (b"# coding: punycode\n-" + b"a" * 9_000_000, None),
    "coding of escapes": (b"# coding: unicode_escape\n\\x41", "# coding: unicode_escape\n\\x41"),
    "lines of Windows": (b"a\r\nb\r\n", "a\r\nb\r\n"),
    "NUL": (b"x\0y", "x\0y"),
    "binary": (b"\x7fELF\xff\xfe", "\x7fELF\ufffd\ufffd"),
}


@pytest.mark.parametrize(("source", "text"), SOURCES.values(), ids=SOURCES)
def test_the_bytes_are_read_as_they_are_and_shown_as_python_reads_them(
    root: Path, source: bytes, text: str | None
) -> None:
    (root / "a.py").write_bytes(source)
    read = paths.read_python(root, "a.py").source
    assert read == source
    assert decoded(read) == (source.decode() if text is None else text)


@pytest.mark.parametrize("name", ["UTF-8", "coding line", "second line", "lines of Windows", "NUL"])
def test_a_text_that_was_read_is_written_as_the_same_bytes(root: Path, name: str) -> None:
    source, text = SOURCES[name]
    assert text is not None
    paths.write(root, "a.py", text)
    assert (root / "a.py").read_bytes() == source


@pytest.mark.parametrize("text", ["# coding: latin-1\n# →", "\ud800"])
def test_a_text_that_its_coding_lacks_is_not_written(root: Path, text: str) -> None:
    with pytest.raises(PathNotAllowedError, match="can't be encoded as .* lacks '.*Remove"):
        paths.write(root, "a.py", text)
    assert (root / "a.py").read_text() == "print('a')"


def test_writing_makes_folders_and_replaces_whole_files(root: Path) -> None:
    assert paths.write(root, "new/deep/x.py", "1") == ("new/deep/x.py", True)
    assert paths.write(root, "new/deep/x.py", "2") == ("new/deep/x.py", False)
    assert (root / "new/deep/x.py").read_text() == "2"
    assert [p.name for p in (root / "new/deep").iterdir()] == ["x.py"]


def test_writing_too_much_is_refused(root: Path) -> None:
    with pytest.raises(PathNotAllowedError, match="too large"):
        paths.write(root, "x.py", "x" * (MOST + 1))


def test_the_list_leaves_out_what_is_not_the_users(root: Path) -> None:
    for name in (".hidden/x.py", "__pycache__/x.py", "venv/lib/x.py", "node_modules/x.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    (root / "venv" / "pyvenv.cfg").write_text("")
    assert [name for name, _ in paths.walk(root, paths.PYTHON)] == ["a.py", "sub/b.py"]


@POSIX
def test_a_file_keeps_its_mode_and_new_ones_follow_the_umask(root: Path) -> None:
    before = os.umask(0o027)
    try:
        for mode in (0o600, 0o666, 0o755):
            (root / "a.py").chmod(mode)
            paths.write(root, "a.py", "x")
            assert stat.S_IMODE((root / "a.py").stat().st_mode) == mode
        (root / "a.py").chmod(0o4755)  # what another program wrote is run with nobody's rights
        paths.write(root, "a.py", "x")
        assert stat.S_IMODE((root / "a.py").stat().st_mode) == 0o755
        paths.write(root, "new/x.py", "x")
        assert stat.S_IMODE((root / "new/x.py").stat().st_mode) == 0o640
        assert stat.S_IMODE((root / "new").stat().st_mode) == 0o750
    finally:
        os.umask(before)


@POSIX
def test_other_names_of_a_file_and_its_readers_keep_the_old_contents(root: Path) -> None:
    os.link(root.parent / "secret.py", root / "hard.py")
    with (root / "hard.py").open() as reader:
        paths.write(root, "hard.py", "new")
        assert reader.read() == "secret"
    assert (root.parent / "secret.py").read_text() == "secret"
    assert (root / "hard.py").read_text() == "new"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    before = sorted(root.rglob("*"))
    for name in ("a.py", "sub/b.py", "new/folders/x.py"):
        with pytest.raises(PathNotAllowedError, match=f"can't be written: {name}: No space left"):
            paths.write(root, name, "new")
    assert sorted(root.rglob("*")) == before
    assert (root / "a.py").read_text() == "print('a')"


def test_files_are_written_side_by_side_into_a_folder_that_is_new_to_all(root: Path) -> None:
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        paths.write(root, f"new/deep/x{number}.py", str(number))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(p.read_text() for p in (root / "new/deep").iterdir()) == list("01234567")


def deleted(root: Path) -> None:
    shutil.rmtree(root)


def moved_for_a_link(root: Path) -> None:
    root.rename(root.parent / "moved")
    root.symlink_to(root.parent / "moved")


def replaced_by_a_file(root: Path) -> None:
    shutil.rmtree(root)
    root.write_text("file")


@POSIX
@pytest.mark.parametrize("change", [deleted, moved_for_a_link, replaced_by_a_file])
def test_a_root_that_is_no_longer_there_is_told_and_not_made_again(
    root: Path, change: Callable[[Path], None]
) -> None:
    change(root)
    for use in (
        lambda: paths.read_python(root, str(root / "a.py")),
        lambda: paths.write(root, "x.py", "x"),
        lambda: list(paths.walk(root, paths.PYTHON)),
    ):
        with pytest.raises(PathNotAllowedError) as error:
            use()
        assert f"Error: The projects folder {root} can't be opened" in str(error.value)
    assert root.is_symlink() or not root.is_dir()


def test_a_root_that_was_made_anew_is_used(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()
    paths.write(root, "x.py", "x")
    assert paths.read_python(root, "x.py").source == b"x"


@ORDINARY
def test_what_may_not_be_read_or_written_says_so(root: Path) -> None:
    (root / "a.py").chmod(0)
    (root / "sub").chmod(0)
    try:
        for name in ("a.py", "sub/b.py"):
            with pytest.raises(PathNotAllowedError, match=f"can't be read: {name}: Permission"):
                paths.read_python(root, name)
        with pytest.raises(PathNotAllowedError, match=r"can't be written: sub/x.py: Permission"):
            paths.write(root, "sub/x.py", "x")
        assert [name for name, _ in paths.walk(root, paths.PYTHON)] == ["a.py"]
    finally:
        (root / "sub").chmod(0o700)


@ORDINARY
def test_a_folder_that_may_be_entered_but_not_listed_is_walked_through(root: Path) -> None:
    (root / "sub").chmod(0o300)
    try:
        if sys.platform == "linux":
            assert paths.read_python(root, "sub/b.py").source == b"print('b')"
            paths.write(root, "sub/new.py", "x")
        assert [name for name, _ in paths.walk(root, paths.PYTHON)] == ["a.py"]
    finally:
        (root / "sub").chmod(0o700)


@ORDINARY
def test_a_root_that_may_not_be_listed_is_told(root: Path) -> None:
    root.chmod(0o300)
    try:
        with pytest.raises(PathNotAllowedError, match="can't be (listed|opened).*Permission"):
            list(paths.walk(root, paths.PYTHON))
    finally:
        root.chmod(0o700)
