"""Pictures that fit, and those that are no pictures."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from rmi_agent.server.errors import WorkerError
from rmi_agent.server.views import Picture, Worker, dimensions, fitted, picture_of, type_of

KINDS = ["PNG", "JPEG", "GIF", "WEBP"]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


def picture(kind: str, width: int, height: int, *, noise: bool = False, **how: Any) -> Picture:
    pixels = os.urandom(width * height * 3) if noise else bytes(width * height * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", (width, height), pixels).save(file, kind, **how)
    return Picture(f"image/{kind.lower()}", file.getvalue())


@pytest.mark.parametrize("kind", KINDS)
def test_type_and_dimensions_are_in_the_first_bytes(kind: str) -> None:
    made = picture(kind, 123, 45)
    assert (type_of(made.data), dimensions(made.data)) == (made.kind, (123, 45))


def test_dimensions_are_found_in_every_kind_of_webp() -> None:
    assert dimensions(picture("WEBP", 300, 20, lossless=True).data) == (300, 20)
    assert dimensions(picture("WEBP", 300, 20, exif=b"Exif\0\0MM\0*\0\0\0\x08").data) == (300, 20)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_headers_have_no_dimensions(kind: str) -> None:
    data = picture(kind, 123, 45).data
    for end in range(40):
        dimensions(data[:end])
    assert dimensions(b"\xff\xd8" + b"\xff\xe0\0\2" * 2_000) == (0, 0)


def test_a_picture_that_fits_is_unchanged(worker: Worker) -> None:
    made = picture("PNG", 2_000, 10)
    assert fitted(made, made.size, worker) is made


@pytest.mark.parametrize("kind", KINDS)
def test_long_sides_are_scaled_down(kind: str, worker: Worker) -> None:
    made = fitted(picture(kind, 2_500, 50), 900_000, worker)
    assert dimensions(made.data) == (2_000, 40)
    assert made.kind == ("image/png" if kind in ("PNG", "GIF") else "image/jpeg")
    assert made.change == "scaled down from 2,500 by 50 to 2,000 by 40 pixels"


@pytest.mark.slow
@pytest.mark.parametrize("most", [20_000, 100_000, 700_000])
def test_a_picture_is_scaled_down_until_it_fits(most: int, worker: Worker) -> None:
    made = fitted(picture("PNG", 1_000, 1_000, noise=True), most, worker)
    assert made.size <= most and made.kind == "image/jpeg"
    assert made.size > most / 4


def test_transparency_becomes_white(worker: Worker) -> None:
    noise = Image.frombytes(
        "RGBA", (300, 300), b"".join(os.urandom(3) + b"\0" for _ in range(90_000))
    )
    file = io.BytesIO()
    noise.save(file, "PNG")
    made = fitted(Picture("image/png", file.getvalue()), 20_000, worker)
    assert Image.open(io.BytesIO(made.data)).convert("RGB").getpixel((5, 5)) == (255, 255, 255)


def test_a_decompression_bomb_is_not_decoded(worker: Worker) -> None:
    data = bytearray(picture("PNG", 10, 10).data)
    data[16:24] = (50_000).to_bytes(4) * 2
    with pytest.raises(WorkerError):
        fitted(Picture("image/png", bytes(data)), 900_000, worker)


@pytest.mark.parametrize(
    "bundle",
    [
        {"image/png": "AAAA"},
        {"image/png": "not base64!"},
        {"image/jpeg": "/9j/"},
        {"image/png": "ä"},
    ],
)
def test_what_is_no_picture_is_refused(bundle: dict[str, str]) -> None:
    with pytest.raises(WorkerError, match="broken"):
        picture_of(bundle)


def test_a_picture_has_the_type_of_its_bytes() -> None:
    data = picture("JPEG", 9, 9).data
    assert picture_of({"image/png": base64.b64encode(data).decode()}).kind == "image/jpeg"
