"""Pages of text in any encoding: together they are the file, and each is told truly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rmi_agent.server.files import OpenFile, TextPage, text_codec, text_page

TEXT = "name,größe\nÄpfel,1\n日本語,2\n🙂,3\n" * 40


def page_of(path: Path, offset: int = 0, limit: int = 1_000_000, **more: object) -> TextPage | None:
    handle = os.open(path, os.O_RDONLY)
    try:
        file = OpenFile(handle, path, os.fstat(handle))
        return text_page(file, offset, limit, **more)  # type: ignore[arg-type]
    finally:
        os.close(handle)


@pytest.mark.parametrize(
    ("data", "encoding", "is_guess", "text"),
    [
        (b"", "utf-8", False, ""),
        (b"plain\n", "utf-8", False, "plain\n"),
        (TEXT.encode(), "utf-8", False, TEXT),
        (TEXT.encode("utf-8-sig"), "utf-8", False, TEXT),
        (TEXT.encode("utf-16"), "utf-16-le", False, TEXT),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), "utf-16-be", False, TEXT),
        (TEXT.encode("utf-32"), "utf-32-le", False, TEXT),
        ("größe;1\r\n".encode("latin-1"), "cp1252", True, "größe;1\r\n"),
        (b"\x1b[31mred\x1b[0m\n", "utf-8", False, "\x1b[31mred\x1b[0m\n"),
        (b"line\n" * 20_000 + b"\xff\xfe", "utf-8", False, "line\n" * 20_000 + "\ufffd\ufffd"),
    ],
)
def test_the_encoding_is_told(
    tmp_path: Path, data: bytes, encoding: str, is_guess: bool, text: str
) -> None:
    (tmp_path / "f").write_bytes(data)
    page = page_of(tmp_path / "f")
    assert page is not None
    assert (page.encoding, page.is_guess, page.text) == (encoding, is_guess, text)
    assert (page.end, page.start <= 4) == (len(data), True)


@pytest.mark.parametrize(
    "data",
    [
        *(b"\0", b"PK\x03\x04 zip", b"%PDF-1.7 text", b"\x1f\x8b\x08", b"\x93NUMPY\x01\x00v\x00"),
        *(bytes(range(256)), b"\xff\xd8\xff\xe0" + b"\x01" * 100, b"\x01\x02\x03"),
    ],
)
def test_what_is_no_text_is_said_to_be_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f").write_bytes(data)
    assert page_of(tmp_path / "f") is None
    assert page_of(tmp_path / "f", encoding="latin-1") is not None  # if somebody insists


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1"])
@pytest.mark.parametrize("limit", [1, 7, 8, 9, 50, 333])
def test_pages_together_are_the_text(tmp_path: Path, encoding: str, limit: int) -> None:
    text = TEXT if encoding != "latin-1" else "größe\n" * 200
    (tmp_path / "f").write_bytes(text.encode(encoding))
    size, at, found = (tmp_path / "f").stat().st_size, 0, ""
    while at < size:
        page = page_of(tmp_path / "f", at, limit)
        assert page is not None and page.end > at
        assert len(page.text) <= max(limit, 8)
        found, at = found + page.text, page.end
    assert found == text


def test_a_negative_offset_reads_the_end_and_no_half_character(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("é" * 100, encoding="utf-8")
    page = page_of(tmp_path / "f", -5)
    assert page is not None and (page.text, page.start, page.end) == ("éé", 196, 200)
    page = page_of(tmp_path / "f", -1_000)
    assert page is not None and len(page.text) == 100
    page = page_of(tmp_path / "f", 1_000)
    assert page is not None and (page.text, page.start, page.end) == ("", 200, 200)


def test_a_python_file_has_the_encoding_of_its_coding_line(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes("# coding: koi8-r\nжд = 'щит'\n".encode("koi8-r"))
    page = page_of(tmp_path / "f", is_python=True)
    assert page is not None and "жд" in page.text
    page = page_of(tmp_path / "f")
    assert page is not None and page.is_guess


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *(
            ("UTF8", "utf-8"),
            ("utf-8-sig", "utf-8-sig"),
            ("latin-1", "iso8859-1"),
            ("utf-16", "utf-16"),
        ),
        *((bad, None) for bad in ("hex", "base64", "punycode", "idna", "unicode_escape", "rot13")),
        *((bad, None) for bad in ("", "none-such", "a\0b", "undefined", "mbcs-no", "utf-7")),
    ],
)
def test_only_encodings_of_files_are_taken(name: str, codec: str | None) -> None:
    assert text_codec(name) == codec


@settings(max_examples=150)
@given(st.binary(max_size=300), st.integers(-400, 400), st.integers(1, 400))
def test_any_bytes_can_be_paged(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, offset: int, limit: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data)
    page = page_of(path, offset, limit)
    assert page is None or 0 <= page.start <= page.end <= len(data)
    for at in range(len(data)):  # from wherever, reading on ends
        one = page_of(path, at, limit)
        assert one is None or one.end > at or one.end == len(data)
